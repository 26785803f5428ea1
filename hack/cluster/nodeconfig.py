"""What the node's programs are told, as values: addresses, configuration files, the objects every cluster has."""

import hashlib
from pathlib import Path
from typing import Any

from hack.cluster.controlplane import SERVICE_RANGE
from hack.cluster.images import PAUSE_IMAGE

NODE_NAME = "llmops"
HOST_ADDRESS, NODE_ADDRESS, LINK_BITS = "10.245.0.1", "10.245.0.2", 30
POD_RANGE = "10.244.0.0/16"
POD_REVERSE, SERVICE_REVERSE = "244.10.in-addr.arpa", "96.10.in-addr.arpa"
DNS_ADDRESS = "10.96.0.10"
API_PORT = 6443
STORAGE_CLASS = "standard"
PROVISIONER = "llmops.dev/local-path"

# In the node's own mount namespace these are its own, so that every program keeps its usual paths.
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
CNI_BINARIES = "/usr/lib/cni"


def containerd_toml(cni_directory: Path) -> str:
    return f"""version = 3
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins.'io.containerd.internal.v1.opt']
  path = "/var/lib/containerd/opt"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{PAUSE_IMAGE}"
[plugins.'io.containerd.cri.v1.runtime']
  # Where CAP_SYS_RESOURCE is missing no process may lower its score: containers would not start.
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["{CNI_BINARIES}"]
    conf_dir = "{cni_directory}"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = false
"""


def pod_network() -> dict[str, Any]:
    """The CNI list: a bridge; what leaves it is given the node's address by the node itself."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isDefaultGateway": True,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": POD_RANGE}]]},
    }
    return {"cniVersion": "1.0.0", "name": "llmops", "plugins": [bridge]}


def node_nftables() -> str:
    """In the node: what pods send to the world carries the node's address."""
    return f"""table ip llmops {{
  chain postrouting {{
    type nat hook postrouting priority srcnat
    ip saddr {POD_RANGE} ip daddr != {POD_RANGE} ip daddr != {SERVICE_RANGE} masquerade
  }}
}}
"""


def host_nftables(table: str, link: str) -> str:
    """On the machine: the node reaches the world with the machine's address; nobody else reaches the node."""
    return f"""table ip {table} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat
    ip saddr {NODE_ADDRESS} oifname != "{link}" masquerade
  }}
  chain forward {{
    type filter hook forward priority filter
    oifname "{link}" ct state new drop
  }}
}}
"""


def cgroup(state: Path) -> str:
    """The cgroup of a cluster's pods: another state directory, another one."""
    return f"llmops-cluster-{hashlib.sha256(bytes(state)).hexdigest()[:8]}"


def kubelet(*, authority: Path, certificate: Path, key: Path, resolv_conf: Path, cgroup_root: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        "healthzBindAddress": "127.0.0.1",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(authority)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(certificate),
        "tlsPrivateKeyFile": str(key),
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": str(resolv_conf),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup_root,
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "oomScoreAdj": 0,
        # The machine's disk is shared with everything else on it, and a loaded image cannot be pulled again.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
    }


def kube_proxy(kubeconfig: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "clusterCIDR": POD_RANGE,
        "hostnameOverride": NODE_NAME,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "conntrack": {"maxPerCore": 0, "min": 0},
        "oomScoreAdj": 0,
    }


def corefile(kubeconfig: Path, nameservers: list[str]) -> str:
    """Cluster names are answered from the API without a cache: a new Service is found at once."""
    upstream = "template ANY ANY {\n    rcode NXDOMAIN\n  }"
    if nameservers:
        upstream = f"forward . {' '.join(nameservers)}\n  cache 30"
    return f"""cluster.local {POD_REVERSE} {SERVICE_REVERSE} {{
  bind {NODE_ADDRESS}
  errors
  ready 127.0.0.1:8181
  kubernetes cluster.local {POD_REVERSE} {SERVICE_REVERSE} {{
    kubeconfig {kubeconfig}
    pods insecure
    ttl 5
  }}
}}
. {{
  bind {NODE_ADDRESS}
  errors
  {upstream}
}}
"""


def base_objects() -> list[dict[str, Any]]:
    """The default StorageClass, and cluster DNS at its usual address, served by a process of the node."""
    in_system = {"namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}}
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    return [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": STORAGE_CLASS,
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": PROVISIONER,
            "reclaimPolicy": "Delete",
            "volumeBindingMode": "WaitForFirstConsumer",
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", **in_system},
            "spec": {"clusterIP": DNS_ADDRESS, "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kube-dns",
                "namespace": "kube-system",
                "labels": {"kubernetes.io/service-name": "kube-dns"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": True}}],
            "ports": ports,
        },
    ]
