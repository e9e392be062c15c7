{{/* Name of everything that belongs to this release. */}}
{{- define "llamaserver-operator.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects the operator's pods; it must never change. */}}
{{- define "llamaserver-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "llamaserver-operator.labels" -}}
{{ include "llamaserver-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: llamaserver
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "llamaserver-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "llamaserver-operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* A full image reference, from (list $ image suffix). */}}
{{- define "llamaserver-operator.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $tag := default (printf "%s%s" $root.Chart.AppVersion (index . 2)) $image.tag -}}
{{- with $root.Values.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ $image.repository }}:{{ $tag }}
{{- end -}}

{{/* Labels as the operator's flags take them: k=v,k=v. */}}
{{- define "llamaserver-operator.pairs" -}}
{{- $pairs := list -}}
{{- range $key, $value := . }}{{ $pairs = append $pairs (printf "%s=%s" $key $value) }}{{ end -}}
{{- join "," $pairs -}}
{{- end -}}

{{/* Not empty if the release has an admission policy. Who may install only in namespaces turns it off. */}}
{{- define "llamaserver-operator.admissionPolicy" -}}
{{- if and .Values.admissionPolicy.enabled (.Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy") -}}
true
{{- end -}}
{{- end -}}

{{/* What the operator may do where it watches: nothing with Secrets, and nothing outside this list. */}}
{{- define "llamaserver-operator.rules" -}}
- apiGroups: [llamaserver.dev]
  resources: [llamaservers]
  verbs: [get, list, watch]
- apiGroups: [llamaserver.dev]
  resources: [llamaservers/status]
  verbs: [get, patch]
# It sets no finalizer. Where OwnerReferencesPermissionEnforcement is on (OpenShift), owner references ask for this.
- apiGroups: [llamaserver.dev]
  resources: [llamaservers/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch]
- apiGroups: [""]
  resources: [services, persistentvolumeclaims, serviceaccounts, configmaps]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [servicemonitors]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [events]
  verbs: [list, create]
{{- end -}}
