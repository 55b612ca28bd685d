package kubernetes["automatic-zone-placement_test"]

import data.kubernetes["automatic-zone-placement"] as policy

zone := "topology.kubernetes.io/zone"

demanded := "requiredDuringSchedulingIgnoredDuringExecution"

preferred := "preferredDuringSchedulingIgnoredDuringExecution"

in_b := {"key": zone, "values": ["eu-central-1b"], "weight": 100}

answer := {
	"zone": "eu-central-1b",
	"zoneId": "euc1-az3",
	"nodeLabels": [in_b, {"key": zone, "values": ["eu-central-1a"], "weight": 50}],
	"nodeSelector": {zone: "eu-central-1b"},
}

# The answer, with other values for these keys.
answer_but(changes) := object.union(object.remove(answer, object.keys(changes)), changes)

answer_with_label(changes) := answer_but({"nodeLabels": [object.union(in_b, changes)]})

response := {"status_code": 200, "body": answer}

labels := {"automatic-zone-placement/zone": "eu-central-1b", "automatic-zone-placement/zone-id": "euc1-az3"}

term(weight, zones) := {
	"weight": weight,
	"preference": {"matchExpressions": [{"key": zone, "operator": "In", "values": zones}]},
}

prefers(terms) := {"nodeAffinity": {preferred: terms}}

plain := {
	"metadata": {"annotations": {"automatic-zone-placement": "db.example.internal"}},
	"spec": {"containers": [{"name": "app", "image": "app:1"}]},
}

required := object.union(plain, {"metadata": {"annotations": {"automatic-zone-placement/mode": "required"}}})

review_of(pod) := {
	"apiVersion": "admission.k8s.io/v1",
	"kind": "AdmissionReview",
	"request": {"uid": "705ab4f5", "operation": "CREATE", "object": pod},
}

# The Pod as the API server would make it of OPA's answer, after the form of that is checked.
reviewed(pod, service_response) := json.patch(pod, patch) if {
	review := policy.review with input as review_of(pod) with http.send as service_response
	review.apiVersion == "admission.k8s.io/v1"
	review.kind == "AdmissionReview"
	review.response.uid == "705ab4f5"
	review.response.allowed
	patch := patch_of(review.response)
}

patch_of(admission) := json.unmarshal(base64.decode(admission.patch)) if admission.patchType == "JSONPatch"

patch_of(admission) := [] if object.keys(admission) == {"uid", "allowed"}

placed := {
	"preferred": {
		"pod": plain,
		"answer": answer,
		"changes": {
			"metadata": {"labels": labels},
			"spec": {"affinity": prefers([term(100, ["eu-central-1b"]), term(50, ["eu-central-1a"])])},
		},
	},
	"required": {
		"pod": required,
		"answer": answer,
		"changes": {
			"metadata": {"labels": labels},
			"spec": {
				"nodeSelector": {zone: "eu-central-1b"},
				"affinity": prefers([term(50, ["eu-central-1a"])]),
			},
		},
	},
	"required, nothing left to prefer": {
		"pod": required,
		"answer": answer_with_label({"values": ["eu-central-1a", "eu-central-1b"]}),
		"changes": {
			"metadata": {"labels": labels},
			"spec": {"nodeSelector": {zone: "eu-central-1b"}},
		},
	},
	"several zones, required": {
		"pod": required,
		"answer": answer_but({"zone": null, "zoneId": null, "nodeSelector": {}}),
		"changes": {"spec": {"affinity": prefers([term(100, ["eu-central-1b"]), term(50, ["eu-central-1a"])])}},
	},
	"no zone id": {
		"pod": plain,
		"answer": answer_but({"zoneId": null, "nodeLabels": [in_b]}),
		"changes": {
			"metadata": {"labels": {"automatic-zone-placement/zone": "eu-central-1b"}},
			"spec": {"affinity": prefers([term(100, ["eu-central-1b"])])},
		},
	},
	"what the Pod has is kept": {
		"pod": object.union(required, {
			"metadata": {"labels": {"app": "app"}},
			"spec": {
				"nodeSelector": {"kubernetes.io/arch": "arm64"},
				"affinity": object.union({"podAntiAffinity": {}}, prefers([{"weight": 7, "preference": {}}])),
			},
		}),
		"answer": answer,
		"changes": {
			"metadata": {"labels": object.union({"app": "app"}, labels)},
			"spec": {
				"nodeSelector": {"kubernetes.io/arch": "arm64", zone: "eu-central-1b"},
				"affinity": object.union({"podAntiAffinity": {}}, prefers([
					{"weight": 7, "preference": {}},
					term(50, ["eu-central-1a"]),
				])),
			},
		},
	},
}

test_placed[name] if {
	some name, example in placed
	expected := object.union(example.pod, example.changes)
	reviewed(example.pod, {"status_code": 200, "body": example.answer}) == expected

	# Reviewed again, as the API server does when a later webhook has changed the Pod.
	reviewed(expected, {"status_code": 200, "body": example.answer}) == expected
}

left_alone := {
	"no annotations": {"metadata": {"annotations": null}},
	"a second parameter": {"metadata": {"annotations": {"automatic-zone-placement": "db.example&fqdn=x"}}},
	"a line break": {"metadata": {"annotations": {"automatic-zone-placement": "db.example\n"}}},
	"an empty annotation": {"metadata": {"annotations": {"automatic-zone-placement": ""}}},
	"of a DaemonSet": {"metadata": {"ownerReferences": [{"kind": "Node"}, {"kind": "DaemonSet"}]}},
	"has a node": {"spec": {"nodeName": "node-a"}},
	"selects a zone": {"spec": {"nodeSelector": {zone: "eu-central-1c"}}},
	"selects a zone by its id": {"spec": {"nodeSelector": {"topology.k8s.aws/zone-id": "euc1-az1"}}},
	"requires a zone": {"spec": {"affinity": {"nodeAffinity": {demanded: {"nodeSelectorTerms": [
		{"matchFields": []},
		{"matchExpressions": [{"key": "kubernetes.io/arch"}, {"key": zone}]},
	]}}}}},
	"selects a zone by its old label": {"spec": {"nodeSelector": {"failure-domain.beta.kubernetes.io/zone": "x"}}},
	"selects a node": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "node-a"}}},
	"requires a node": {"spec": {"affinity": {"nodeAffinity": {demanded: {"nodeSelectorTerms": [{"matchFields": [
		{"key": "metadata.name", "operator": "In", "values": ["node-a"]},
	]}]}}}}},
	"prefers a node": {"spec": {"affinity": prefers([{"preference": {"matchFields": [{"key": "metadata.name"}]}}])}},
	"prefers a zone": {"spec": {"affinity": prefers([{"preference": {}}, term(1, ["eu-central-1c"])])}},
}

test_left_alone[name] if {
	some name, change in left_alone
	pod := object.union(plain, change)
	reviewed(pod, response) == pod
}

test_only_created_pods_are_placed if {
	review := review_of(plain)
	updated := object.union(review, {"request": {"operation": "UPDATE"}})
	policy.answer with input as review with http.send as response
	not policy.answer with input as updated with http.send as response
}

no_answers := {
	"no service, or a timeout": {"status_code": 0, "error": {"message": "context deadline exceeded"}},
	"an error": {"status_code": 404, "body": answer},
	"no JSON": {"status_code": 200, "raw_body": "hello"},
	"no object": {"status_code": 200, "body": []},
	"a zone that is avoided": {"status_code": 200, "body": answer_but({"nodeLabels": [], "nodeSelector": {}})},
	"no values": {"status_code": 200, "body": answer_with_label({"values": []})},
	"a value, not a list": {"status_code": 200, "body": answer_with_label({"values": "b"})},
	"a weight of 0": {"status_code": 200, "body": answer_with_label({"weight": 0})},
	"a weight of 101": {"status_code": 200, "body": answer_with_label({"weight": 101})},
	"no selector": {"status_code": 200, "body": object.remove(answer, ["nodeSelector"])},
	"a selector of numbers": {"status_code": 200, "body": answer_but({"nodeSelector": {zone: 1}})},
	"a zone that is a number": {"status_code": 200, "body": answer_but({"zone": 1})},
}

test_no_answer[name] if {
	some name, service_response in no_answers
	reviewed(required, service_response) == required
}
