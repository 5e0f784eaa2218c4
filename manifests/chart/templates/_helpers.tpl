{{- define "fairlead.image" -}}
{{ printf "%s/%s:%s" .root.Values.image.prefix .name (.root.Values.image.tag | default .root.Chart.AppVersion) }}
{{- end }}

{{- define "fairlead.labels" -}}
app.kubernetes.io/name: fairlead
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: fairlead
{{- end }}

{{- define "fairlead.selector" -}}
app.kubernetes.io/name: fairlead
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Settings by name, in order; what the chart sets itself is not among them. */}}
{{- define "fairlead.env" -}}
{{- range $name := keys . | sortAlpha }}
- name: {{ $name }}
  value: {{ get $ $name | toString | quote }}
{{- end }}
{{- end }}

{{- define "fairlead.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* A Job of the controller's image that runs cli/remove-mesh.ts. */}}
{{- define "fairlead.removalJob" -}}
spec:
  backoffLimit: 0
  activeDeadlineSeconds: {{ .seconds }}
  template:
    metadata:
      labels:
        {{- include "fairlead.labels" (dict "root" .root "component" "removal") | nindent 8 }}
    spec:
      serviceAccountName: {{ .account }}
      {{- include "fairlead.pullSecrets" .root | nindent 6 }}
      restartPolicy: Never
      priorityClassName: {{ .root.Values.controller.priorityClass }}
      {{- with .root.Values.controller.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .root.Values.controller.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        runAsGroup: 65532
        seccompProfile: { type: RuntimeDefault }
      containers:
        - name: removal
          image: {{ include "fairlead.image" (dict "root" .root "name" "controller") }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command: [/usr/local/bin/node, --disable-warning=ExperimentalWarning, /opt/fairlead/cli/remove-mesh.ts]
          args: [--namespace, {{ .root.Values.namespace }}{{ with .more }}, {{ . }}{{ end }}]
          securityContext:
            privileged: false
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: [ALL]
          resources:
            requests: { cpu: 50m, memory: 96Mi }
            limits: { cpu: "1", memory: 256Mi }
{{- end }}
