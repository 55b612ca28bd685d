"""The names by which the parts, and the cluster, know each other: labels, annotations, the version."""

VERSION = "3.0.0"

# https://kubernetes.io/docs/reference/labels-annotations-taints/, and EKS's own.
ZONE_LABEL = "topology.kubernetes.io/zone"
ZONE_ID_LABEL = "topology.k8s.aws/zone-id"
