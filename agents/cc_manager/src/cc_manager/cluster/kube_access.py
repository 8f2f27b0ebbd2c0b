"""Where the API server is, and who we are to it."""

from nodelib.errors import InvalidValue, NotSupported
from nodelib.kube import ApiAccess, Kube, in_cluster_access


def open_kube(kubeconfig: str | None) -> Kube:
    """The API server that a pod's service account names, or *kubeconfig*. Raises InvalidValue or NotSupported."""
    return Kube(_kubeconfig_access(kubeconfig) if kubeconfig else in_cluster_access())


def _kubeconfig_access(path: str) -> ApiAccess:
    """The current context of a kubeconfig file, whatever way of logging in it uses."""
    # The full client (44 MiB) reads kubeconfig files with all their ways of logging in; nothing else of it is used.
    try:
        import yaml
        from kubernetes import client, config
    except ImportError:
        raise NotSupported(
            f"kubeconfig {path} cannot be read by this installation: install cgpu-cc-manager[kubeconfig]"
        ) from None
    configuration = client.Configuration()
    try:
        config.load_kube_config(path, client_configuration=configuration)  # type: ignore[no-untyped-call]  # untyped library
    except (config.ConfigException, yaml.YAMLError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidValue(f"kubeconfig {path} cannot be used: {' '.join(str(error).split())}") from error
    if not configuration.host.startswith(("https://", "http://")):
        raise InvalidValue(f"kubeconfig {path} cannot be used: {configuration.host!r} is no server's address")
    bearer = configuration.auth_settings().get("BearerToken", {}).get("value") or ""
    return ApiAccess(
        configuration.host,
        ca_file=configuration.ssl_ca_cert,
        token=bearer.removeprefix("Bearer ") or None,
        cert_file=configuration.cert_file,
        key_file=configuration.key_file,
        verify=configuration.verify_ssl,
    )
