{{/* The ConfigMap with the table, under the key subnets.json. */}}
{{- define "zp.table" -}}
{{- if .Values.subnetsConfigMap }}
{{- .Values.subnetsConfigMap }}
{{- else if .Values.awsSubnets.enabled }}
{{- include "zp.fullname" . }}-gathered
{{- else }}
{{- include "zp.fullname" . }}-subnets
{{- end }}
{{- end }}

{{/* A table that is part of the release; nothing if it is somebody else's. */}}
{{- define "zp.table.text" -}}
{{- if .Values.exampleTable }}
{{- .Files.Get "files/example-subnets.json" }}
{{- else }}
{{- .Values.subnets }}
{{- end }}
{{- end }}

{{- define "zp.table.volume" -}}
- name: subnets
  configMap:
    name: {{ include "zp.table" . }}
    # By naming it here, the Pods wait until there is a table.
    items:
      - key: subnets.json
        path: subnets.json
{{- end }}
