{{/* Which engine asks the service. */}}

{{/* The version of Kyverno in the cluster, by its image's tag; empty if that does not tell. */}}
{{- define "zp.kyverno.version" -}}
{{- range (lookup "apps/v1" "Deployment" .Values.kyvernoNamespace "").items }}
{{- if eq (dig "labels" "app.kubernetes.io/component" "" .metadata) "admission-controller" }}
{{- range .spec.template.spec.containers }}
{{- if eq .name "kyverno" }}
{{- regexFind `:v?[0-9]+\.[0-9]+\.[0-9]+` .image | trimPrefix ":" | trimPrefix "v" }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The engine, and why: what is not known to be newer is not newer. */}}
{{- define "zp.engine.choice" -}}
{{- $version := include "zp.kyverno.version" . }}
{{- $apis := .Capabilities.APIVersions }}
{{- if ne .Values.engine "auto" }}
engine: {{ .Values.engine }}
why: you chose it
{{- else if and $version (semverCompare ">=1.19.0" $version) ($apis.Has "policies.kyverno.io/v1/MutatingPolicy") }}
engine: mutatingPolicy
why: Kyverno {{ $version }} is in the namespace {{ .Values.kyvernoNamespace }}
{{- else if $apis.Has "kyverno.io/v1/ClusterPolicy" }}
engine: clusterPolicy
why: the cluster has Kyverno, {{ with $version }}{{ . }}{{ else }}of an unknown version{{ end }}
{{- else }}
engine: webhook
why: the cluster has no Kyverno
{{- end }}
{{- end }}

{{- define "zp.engine" -}}
{{ (include "zp.engine.choice" . | fromYaml).engine }}
{{- end }}

{{/* True for the engines that the API server calls itself, and which need a certificate therefore. */}}
{{- define "zp.engine.isCalled" -}}
{{- if has (include "zp.engine" .) (list "webhook" "opa") }}true{{ end }}
{{- end }}

{{/* The name of the Service that the API server calls. */}}
{{- define "zp.called" -}}
{{ include "zp.fullname" . }}{{ if eq (include "zp.engine" .) "opa" }}-opa{{ end }}
{{- end }}

{{/* Everything of a webhook's configuration but whom it calls. The Pods are those of the MutatingPolicy. */}}
{{- define "zp.webhook.rules" -}}
admissionReviewVersions: [v1]
# A Pod in the wrong zone is slow, a Pod that is refused is down.
failurePolicy: Ignore
timeoutSeconds: 3
sideEffects: None
# Another webhook may give a Pod its annotation, or a zone. A Pod that is placed chooses its
# zone, and is left alone.
reinvocationPolicy: IfNeeded
matchPolicy: Equivalent
rules:
  - apiGroups: [""]
    apiVersions: [v1]
    operations: [CREATE]
    resources: [pods]
    scope: Namespaced
# Neither what the cluster nor what this service itself needs to start has to wait for it.
namespaceSelector:
  matchExpressions:
    - key: kubernetes.io/metadata.name
      operator: NotIn
      values: [kube-system]
objectSelector:
  matchExpressions:
    - key: app.kubernetes.io/part-of
      operator: NotIn
      values: [{{ .Chart.Name }}]
{{- $policy := .Files.Get "files/kyverno/mutatingpolicy/automatic-zone-placement.yaml" | fromYaml }}
# Decided by the API server: a Pod that is left alone costs no call.
matchConditions:
  {{- toYaml $policy.spec.matchConditions | nindent 2 }}
{{- end }}
