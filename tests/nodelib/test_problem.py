"""What is wrong on the node, in words."""

from nodelib.problem import Problem


def test_a_problem_reads_as_what_is_wrong_and_then_what_to_do() -> None:
    assert (
        str(Problem("absent", "0000:3b:00.0 left the bus", "put it back")) == "0000:3b:00.0 left the bus; put it back"
    )


def test_a_problem_without_a_remedy_is_its_text_alone() -> None:
    assert str(Problem("config-hung", "0000:3b:00.0 is resetting")) == "0000:3b:00.0 is resetting"
