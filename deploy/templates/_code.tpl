{{/*
The code: each folder is a ConfigMap, and so is each program with its modules. A container gets only
those that it needs, in one volume, and its Pod a checksum of these.
*/}}

{{- define "zp.code.programs" -}}
server: [server.py, subnets.py]
publish: [publish.py]
verify: [verify.py]
{{- end }}

{{- define "zp.code.ofService" -}}
[server, common, lookup, webhook, kept]
{{- end }}

{{/* What is in a part, as a dict of path and text: (list . "lookup"). */}}
{{- define "zp.code.files" -}}
{{- $top := first . }}
{{- $part := last . }}
{{- $files := dict }}
{{- $programs := include "zp.code.programs" $top | fromYaml }}
{{- range $path, $_ := $top.Files.Glob "files/app/**" }}
{{- $path := trimPrefix "files/app/" $path }}
{{- if or (hasPrefix (printf "%s/" $part) $path) (has $path (get $programs $part | default list)) }}
{{- $_ := set $files $path ($top.Files.Get (printf "files/app/%s" $path)) }}
{{- end }}
{{- end }}
{{- toJson $files }}
{{- end }}

{{- define "zp.code.sources" -}}
{{- $top := first . -}}
{{- range $part := last . }}
- configMap:
    name: {{ include "zp.fullname" $top }}-code-{{ $part }}
    items:
      {{- range $path, $_ := include "zp.code.files" (list $top $part) | fromJson }}
      - key: {{ base $path }}
        path: {{ $path }}
      {{- end }}
{{- end }}
{{- end }}

{{/* The volume with these parts: (list . (list "common" "lookup")). Nothing with an image that contains them. */}}
{{- define "zp.code.volume" -}}
{{- if not (first .).Values.image.containsCode }}
- name: app
  projected:
    sources:
      {{- include "zp.code.sources" . | trim | nindent 6 }}
{{- end }}
{{- end }}

{{- define "zp.code.mount" -}}
{{- if not .Values.image.containsCode }}
- name: app
  mountPath: /app
  readOnly: true
{{- end }}
{{- end }}

{{/* Of these parts, as the volume. */}}
{{- define "zp.code.checksum" -}}
{{- $top := first . }}
{{- $all := list }}
{{- range $part := last . }}
{{- $all = append $all (include "zp.code.files" (list $top $part)) }}
{{- end }}
{{- join "\n" $all | sha256sum | trunc 16 }}
{{- end }}
