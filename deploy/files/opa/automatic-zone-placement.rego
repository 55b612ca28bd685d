# METADATA
# title: Automatic Zone Placement
# description: >-
#   Answers the API server's review of a Pod that names its database, in the annotation
#   `automatic-zone-placement`, with a patch that schedules it in the database's zone: by preference,
#   or, with `automatic-zone-placement/mode: required`, nowhere else. No Pod is ever refused.
package kubernetes["automatic-zone-placement"]

lookup := "http://automatic-zone-placement.automatic-zone-placement.svc:8080/lookup?fqdn="

# Less than the webhook's 3 s, so that OPA answers in any case; the service takes 1 s at most.
timeout := "2s"

# By any of these a Pod chooses its zone itself: a node is in one. The last is a field's.
zone_choices := {
	"topology.kubernetes.io/zone",
	"topology.k8s.aws/zone-id",
	"failure-domain.beta.kubernetes.io/zone",
	"kubernetes.io/hostname",
	"metadata.name",
}

# METADATA
# description: What the API server wants to read, from `POST /v0/data/kubernetes/automatic-zone-placement/review`.
# entrypoint: true
review := {
	"apiVersion": input.apiVersion,
	"kind": input.kind,
	"response": object.union({"uid": input.request.uid, "allowed": true}, patched),
}

default patched := {}

patched := {"patchType": "JSONPatch", "patch": base64.encode(json.marshal(patch))} if count(patch) > 0

pod := input.request.object

names := pod.metadata.annotations["automatic-zone-placement"]

# The Pods about which the service is asked.
is_to_be_placed if {
	input.request.operation == "CREATE"

	# Nothing else may reach the URL: not a second parameter, not a line break.
	regex.match(`^[A-Za-z0-9._,:-]+$`, names)
	not has_node
	not is_of_a_daemonset
	count(chosen_by & zone_choices) == 0
}

# The scheduler has no say any more, but the kubelet refuses a Pod whose selector does not fit its node.
has_node if pod.spec.nodeName != ""

# A DaemonSet's controller has chosen the node already.
is_of_a_daemonset if {
	some owner in pod.metadata.ownerReferences
	owner.kind == "DaemonSet"
}

# What the Pod itself asks of its nodes, be it required or preferred.
terms contains term if {
	some term in pod.spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms
}

terms contains term.preference if {
	some term in pod.spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution
}

# The keys of all node labels and fields by which it chooses them.
chosen_by contains key if some key, _ in pod.spec.nodeSelector

chosen_by contains requirement.key if {
	some term in terms
	some requirement in term.matchExpressions
}

chosen_by contains requirement.key if {
	some term in terms
	some requirement in term.matchFields
}

# Undefined, as whatever depends on it, if there is none: unknown name, timeout, no service.
answer := response.body if {
	is_to_be_placed
	response := http.send({
		"method": "GET",
		"url": concat("", [lookup, names]),
		"timeout": timeout,
		"raise_error": false,
	})
	response.status_code == 200
	json.match_schema(response.body, answer_schema)[0]
}

# What is no node label must not get into the Pod: the API server would refuse it. Without any, there is no answer.
answer_schema := {
	"type": "object",
	"required": ["zone", "zoneId", "nodeLabels", "nodeSelector"],
	"properties": {
		"zone": {"type": ["string", "null"]},
		"zoneId": {"type": ["string", "null"]},
		"nodeSelector": {"type": "object", "additionalProperties": {"type": "string"}},
		"nodeLabels": {"type": "array", "minItems": 1, "items": {
			"type": "object",
			"required": ["key", "values", "weight"],
			"properties": {
				"key": {"type": "string"},
				"values": {"type": "array", "minItems": 1, "items": {"type": "string"}},
				"weight": {"type": "integer", "minimum": 1, "maximum": 100},
			},
		}},
	},
}

# What the service lets us insist on, perhaps nothing.
default selector := {}

selector := answer.nodeSelector if pod.metadata.annotations["automatic-zone-placement/mode"] == "required"

is_selected(label) if selector[label.key] in label.values

# A preference that the selector satisfies anyway would say nothing.
preferences := [preference |
	some label in answer.nodeLabels
	not is_selected(label)
	preference := {
		"weight": label.weight,
		"preference": {"matchExpressions": [{"key": label.key, "operator": "In", "values": label.values}]},
	}
]

# Appended to the Pod's own preferences: they add up.
default affinity := {}

affinity := {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": all_preferences}} if {
	count(preferences) > 0
	own := ["spec", "affinity", "nodeAffinity", "preferredDuringSchedulingIgnoredDuringExecution"]
	all_preferences := array.concat(object.get(pod, own, []), preferences)
}

# Says on the Pod what was decided: nothing of the kind if the name is in several zones. On-premises there is
# no zone id.
decision := {label: value |
	some label, value in {
		"automatic-zone-placement/zone": answer.zone,
		"automatic-zone-placement/zone-id": answer.zoneId,
	}
	value != null
}

# Objects are added whole, with what the Pod has of them: a JSON patch creates no parents.
patch := [{"op": "add", "path": concat("/", array.concat([""], path)), "value": merged} |
	some [path, addition] in [
		[["spec", "affinity"], affinity],
		[["spec", "nodeSelector"], selector],
		[["metadata", "labels"], decision],
	]
	count(addition) > 0
	merged := object.union(object.get(pod, path, {}), addition)
]
