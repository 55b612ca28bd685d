{{/* The policies, as a dict of file and text, which call the service by its name. */}}
{{- define "zp.opa.policies" -}}
{{- $policies := dict }}
{{- range $path, $_ := .Files.Glob "files/opa/*.rego" }}
{{- $text := $.Files.Get $path | replace "http://automatic-zone-placement.automatic-zone-placement.svc:8080" (include "zp.url" $) }}
{{- $_ := set $policies (base $path) $text }}
{{- end }}
{{- toJson $policies }}
{{- end }}
