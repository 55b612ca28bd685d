# METADATA
# title: Authorization
# description: >-
#   Lets clients review Pods and see whether OPA is alive. By itself OPA lets everybody who reaches it
#   replace its policies, and so what becomes of every Pod.
package system.authz

default allow := false

allow if {
	input.method == "POST"
	input.path == ["v0", "data", "kubernetes", "automatic-zone-placement", "review"]
}

allow if {
	input.method == "GET"
	input.path == ["health"]
}
