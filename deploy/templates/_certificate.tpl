{{/* With what the webhook, or OPA, proves itself to the API server. */}}

{{/* The Secret with the certificate: one's own, or one that goes with the release. */}}
{{- define "zp.certificate.secret" -}}
{{- if eq .Values.webhook.certificate "secret" }}
{{- .Values.webhook.secretName }}
{{- else }}
{{- include "zp.called" . }}-{{ ternary "tls" "certificate" (eq .Values.webhook.certificate "helm") }}
{{- end }}
{{- end }}

{{- define "zp.certificate.name" -}}
{{ include "zp.called" . }}.{{ .Release.Namespace }}.svc
{{- end }}

{{/*
The chart's own certificate as the data of a Secret: the one that is there, or a new one if there is
none for this name. Made once for a rendering, because the Secret and the configuration must agree.
*/}}
{{- define "zp.certificate.data" -}}
{{- if not (hasKey .Values.webhook "made") }}
{{- $name := include "zp.certificate.name" . }}
{{- $present := lookup "v1" "Secret" .Release.Namespace (include "zp.certificate.secret" .) }}
{{- $data := dig "data" dict $present | default dict }}
{{- $isFor := dig "metadata" "annotations" "automatic-zone-placement/certificate-for" "" $present }}
{{- if not (and (eq $isFor $name) (get $data "ca.crt") (get $data "tls.crt") (get $data "tls.key")) }}
{{- $ca := genCAWithKey (include "zp.fullname" .) 3650 (genPrivateKey "ecdsa") }}
{{- $certificate := genSignedCertWithKey $name nil (list $name) 3650 $ca (genPrivateKey "ecdsa") }}
{{- $data = dict "ca.crt" (b64enc $ca.Cert) "tls.crt" (b64enc $certificate.Cert) "tls.key" (b64enc $certificate.Key) }}
{{- end }}
{{- $_ := set .Values.webhook "made" (pick $data "ca.crt" "tls.crt" "tls.key") }}
{{- end }}
{{- toYaml .Values.webhook.made }}
{{- end }}

{{/* What lets the API server trust it; nothing with cert-manager, which writes it there itself. */}}
{{- define "zp.certificate.bundle" -}}
{{- if eq .Values.webhook.certificate "helm" }}
caBundle: {{ get (include "zp.certificate.data" . | fromYaml) "ca.crt" }}
{{- else if eq .Values.webhook.certificate "secret" }}
caBundle: {{ b64enc .Values.webhook.caBundle }}
{{- end }}
{{- end }}
