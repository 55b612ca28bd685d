"""The names by which the parts, and the cluster, know each other: labels, annotations, the version."""

VERSION = "3.0.0"

# https://kubernetes.io/docs/reference/labels-annotations-taints/, and EKS's own.
ZONE_LABEL = "topology.kubernetes.io/zone"
ZONE_ID_LABEL = "topology.k8s.aws/zone-id"

# A Pod's annotations: near which names it wants to be, how much, and whether it may be moved.
ANNOTATION = "automatic-zone-placement"
MODE_ANNOTATION = f"{ANNOTATION}/mode"
RELOCATE_ANNOTATION = f"{ANNOTATION}/relocate"

# What the annotation may consist of, whichever engine reads it: nothing that means anything in
# a URL. Of IPv6 it takes the colons, and no brackets.
NAMES_PATTERN = r"[A-Za-z0-9._,:-]+"

# What relocation calls itself to servers (RFC 9110, section 10.1.5), and by what the service knows it.
RELOCATION_AGENT = f"{ANNOTATION}/relocation"

# A Pod's labels: for which zone it was decided.
DECIDED_ZONE_LABEL = f"{ANNOTATION}/zone"
DECIDED_ZONE_ID_LABEL = f"{ANNOTATION}/zone-id"
