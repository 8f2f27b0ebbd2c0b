"""What vfio-manager leaves alone, and the reason that it gives; pure values in and out."""

from dataclasses import replace

from nodelib.held import HeldBy, Holder
from nodelib.inventory import Inventory
from tests.nodelib.samples import at, audio, gpu, look, nic, nvswitch
from vfio_manager.modalias import DriverChoice
from vfio_manager.plan import plan_bind, plan_release
from vfio_manager.settings import Settings

CHOICE = DriverChoice(None, (), frozenset({"vfio-pci", "nvidia"}))


def refused(inventory: Inventory, settings: Settings | None = None, choice: DriverChoice = CHOICE) -> dict[str, str]:
    """Address and stable code of every refusal; what is refused has no step."""
    planned = plan_bind(inventory, settings or Settings(), choice)
    codes = {str(refusal.address): refusal.problem.code for refusal in planned.refusals}
    assert not {str(step.address) for step in planned.device_steps} & set(codes)
    return codes


def sentence(inventory: Inventory, settings: Settings | None = None, choice: DriverChoice = CHOICE) -> str:
    (refusal,) = plan_bind(inventory, settings or Settings(), choice).refusals
    return str(refusal)


def test_without_an_iommu_the_device_stays_where_it_is_and_the_remedy_is_named() -> None:
    # facts/field-problems.md, row 23
    inventory = look(gpu("3b", None, driver="nvidia"))
    assert refused(inventory) == {"0000:3b:00.0": "no-iommu"}
    assert "on Intel boot with intel_iommu=on" in sentence(inventory)


def test_a_physical_function_with_virtual_functions_is_never_bound_away() -> None:
    # facts/field-problems.md, row 40
    inventory = look(gpu("3b", 65, driver="nvidia", vf_count=3), gpu("86", 93, driver="nvidia"))
    assert refused(inventory) == {"0000:3b:00.0": "has-vfs"}
    assert sentence(inventory) == (
        "0000:3b:00.0: 3 virtual functions of it are on, which unbinding would pull away; "
        "first write 0 to /sys/bus/pci/devices/0000:3b:00.0/sriov_numvfs"
    )


def test_a_driver_that_is_protected_keeps_its_devices_whichever_way_it_is_spelt() -> None:
    inventory = look(gpu("3b", 65, driver="nvidia"), nvswitch("07", 7, driver="nvidia-nvswitch"))
    settings = Settings(
        protected_drivers=frozenset({"nvidia", "nvidia_nvswitch"}), only=frozenset({at("3b"), at("07")})
    )
    assert refused(inventory, settings) == {
        "0000:07:00.0": "protected-driver",
        "0000:3b:00.0": "protected-driver",
    }
    assert "it is on driver nvidia, which --protect-driver keeps" in sentence(
        look(gpu("3b", 65, driver="nvidia")), settings
    )


def test_a_device_that_a_vm_has_open_is_left_alone_with_all_of_its_group() -> None:
    # DESIGN, section 2, "In use"; facts/field-problems.md, row 14
    inventory = look(
        gpu("3d", 12, enable=1, power_control="auto", d3cold_allowed=True),
        gpu("3e", 12, power_control="auto", d3cold_allowed=True),
        audio("3e.1", 12, driver=None),
    )
    assert refused(inventory) == {"0000:3e:00.1": "in-use"}
    assert plan_bind(inventory, Settings(), CHOICE).steps == (), "the two that are bound are as they should be"
    assert "a virtual machine has it, or a function of its IOMMU group 12, open" in sentence(inventory)


def test_a_device_whose_use_cannot_be_read_counts_as_used() -> None:
    inventory = look(gpu("3b", 65, enable=None))
    variant = replace(CHOICE, forced="nvgrace_gpu_vfio_pci", loaded=frozenset({"nvgrace_gpu_vfio_pci"}))
    assert refused(inventory, choice=variant) == {"0000:3b:00.0": "in-use"}


def test_a_device_that_its_usual_driver_has_enabled_is_not_taken_for_one_in_a_vm() -> None:
    assert refused(look(gpu("3b", 65, driver="nvidia", enable=1))) == {}


def test_a_driver_that_is_not_loaded_is_loaded_before_all_else() -> None:
    inventory = look(gpu("3b", 65, driver="nvidia"))
    planned = plan_bind(inventory, Settings(), replace(CHOICE, loaded=frozenset({"nvidia"})))
    assert str(planned.steps[0]) == "load the kernel module vfio_pci"
    assert planned.refusals == ()


def test_a_driver_that_would_not_load_is_told_for_each_device_that_needs_it() -> None:
    inventory = look(gpu("3b", 65, driver="nvidia"))
    choice = replace(CHOICE, loaded=frozenset({"nvidia"}))
    planned = plan_bind(inventory, Settings(), choice, unloadable={"vfio_pci": "it is blacklisted"})
    assert (planned.steps, [str(refusal) for refusal in planned.refusals]) == ((), ["0000:3b:00.0: it is blacklisted"])


def test_field_15_a_gpu_that_a_process_holds_is_left_alone_and_the_process_named() -> None:
    inventory = look(gpu("3b", 65, driver="nvidia"), gpu("86", 93, driver="nvidia"))
    held = {at("3b"): HeldBy((Holder(815, "nvidia-persiste"),))}
    planned = plan_bind(inventory, Settings(), CHOICE, held)
    (refusal,) = planned.refusals
    assert str(refusal).startswith("0000:3b:00.0: it is held by nvidia-persiste (pid 815)")
    assert {device.address for device in planned.devices} == {at("86")}


def test_field_24_a_virtual_machine_that_has_a_gpu_open_is_named_or_said_to_be_invisible() -> None:
    inventory = look(gpu("3b", 65, driver="vfio-pci", enable=1))
    settings = Settings(driver="nvgrace_gpu_vfio_pci")
    unseen = plan_bind(inventory, settings, replace(CHOICE, forced="nvgrace_gpu_vfio_pci"))
    assert "open: its holder is not visible" in str(unseen.refusals[0])
    held = {at("3b"): HeldBy((Holder(4711, "qemu-system-x86", "0f2c"),))}
    seen = plan_bind(inventory, settings, replace(CHOICE, forced="nvgrace_gpu_vfio_pci"), held)
    assert "open: qemu-system-x86 (pid 4711, pod 0f2c)" in str(seen.refusals[0])


def test_group_n_is_not_viable_names_the_foreign_device_its_driver_and_the_way_out() -> None:
    # facts/field-problems.md, row 6
    inventory = look(gpu("3b", 65, driver="nvidia"), nic("3c", 65))
    planned = plan_bind(inventory, Settings(), CHOICE)
    (refusal,) = planned.refusals
    assert refusal.problem.code == "foreign-group-member"
    said = str(refusal)
    assert said.startswith("0000:3c:00.0: it is on driver mlx5_core and shares IOMMU group 65 with a GPU")
    assert said.endswith("add --allow-group-member 0000:3c:00.0")
    assert {device.address for device in planned.devices} == {at("3b")}, "the GPU itself is bound all the same"


def test_a_foreign_device_that_does_no_harm_is_not_spoken_of() -> None:
    inventory = look(
        gpu("3b", 65), nic("3c", 65, driver=None), nic("3d", 65, driver="vfio-pci"), nic("3e", 65, driver="pci-stub")
    )
    assert refused(inventory) == {}


def test_a_foreign_device_that_is_allowed_is_bound_and_no_more_in_the_way() -> None:
    inventory = look(gpu("3b", 65), nic("3c", 65))
    settings = Settings(allowed_group_members=frozenset({at("3c")}))
    assert refused(inventory, settings) == {}
    assert [str(step) for step in plan_bind(inventory, settings, CHOICE).steps] == [
        "set driver_override of 0000:3c:00.0 to vfio-pci",
        "unbind 0000:3c:00.0 from mlx5_core",
        "bind 0000:3c:00.0 to vfio-pci",
    ]


def test_a_device_whose_lock_the_kernel_holds_gets_no_write() -> None:
    # DESIGN, section 2: a bind, unbind or reset that does not end
    assert refused(look(gpu("3b", 65, driver=None, is_locked=True))) == {"0000:3b:00.0": "hung"}
    planned = plan_release(look(gpu("3b", 65, is_locked=True)), Settings())
    assert [refusal.problem.code for refusal in planned.refusals] == ["hung"]
    assert planned.steps == ()


def test_release_leaves_what_bind_must_not_touch_either() -> None:
    variant = {"driver": "nvgrace_gpu_vfio_pci", "has_vfio_dev": True}
    inventory = look(
        gpu("3b", 65, enable=1), gpu("3c", 66, vf_count=2), gpu("3d", 67, **variant), gpu("3e", 68), gpu("3f", 65)
    )
    planned = plan_release(inventory, Settings(protected_drivers=frozenset({"nvgrace-gpu-vfio-pci"})))
    assert {str(refusal.address): refusal.problem.code for refusal in planned.refusals} == {
        "0000:3b:00.0": "in-use",
        "0000:3c:00.0": "has-vfs",
        "0000:3d:00.0": "protected-driver",
        "0000:3f:00.0": "in-use",
    }
    assert {device.address for device in planned.devices} == {at("3e")}
