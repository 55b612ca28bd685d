{{/* Rules of NetworkPolicies. */}}

{{/* DNS, wherever it is: a NodeLocal DNSCache is no Pod that could be selected. A rule is about the
Pods' ports: OpenShift's and Gardener's DNS listens on others than its Service's. */}}
{{- define "zp.egress.dns" -}}
{{- $ports := .Values.networkPolicy.dnsPorts }}
{{- with get (dict "openshift" 5353 "gardener" 8053) .Values.platform }}
{{- $ports = append $ports . }}
{{- end }}
- ports:
    {{- range $ports | uniq }}
    - port: {{ . }}
      protocol: UDP
    - port: {{ . }}
      protocol: TCP
    {{- end }}
{{- end }}

{{/* The API server, which is no Pod either. */}}
{{- define "zp.egress.api" -}}
- ports:
    {{- range .Values.networkPolicy.apiServerPorts }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
{{- end }}

{{- define "zp.peers.namespaces" -}}
- namespaceSelector:
    matchExpressions:
      - key: kubernetes.io/metadata.name
        operator: In
        values:
          {{- toYaml (uniq .) | nindent 10 }}
{{- end }}

{{/* The Pods of a component: (list . "relocation"). */}}
{{- define "zp.peers.component" -}}
- podSelector:
    matchLabels:
      {{- include "zp.selector" . | nindent 6 }}
{{- end }}

{{/* From the API server to the port: (list . "webhook"). */}}
{{- define "zp.ingress.api" -}}
- ports:
    - port: {{ last . }}
      protocol: TCP
  {{- with (first .).Values.networkPolicy.apiServer }}
  from:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
