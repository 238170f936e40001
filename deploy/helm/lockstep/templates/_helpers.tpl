{{- define "lockstep.labels" -}}
app.kubernetes.io/name: lockstep
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "lockstep.selector" -}}
app.kubernetes.io/name: lockstep
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "lockstep.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* What the schema cannot say: values that must fit each other. */}}
{{- define "lockstep.check" -}}
{{- if not .Values.cluster.founder }}
{{- fail "cluster.founder is not set: name the Kubernetes node that founds the cluster, one of a site with data (--set cluster.founder=NODE)" }}
{{- end }}
{{- $names := list }}
{{- range .Values.sites }}
{{- if has .name $names }}{{ fail (printf "sites: '%s' is named twice" .name) }}{{ end }}
{{- $names = append $names .name }}
{{- end }}
{{- if and .Values.witness.enabled (has .Values.witness.site $names) }}
{{- fail (printf "witness.site: '%s' is a site with data; a witness is worth something in a third place only" .Values.witness.site) }}
{{- end }}
{{- end }}

{{/* The Secret in which nodes find their join tokens. */}}
{{- define "lockstep.secret" -}}
{{ .Release.Name }}-cluster
{{- end }}

{{/* What enters the cluster before a daemon starts: root, site, role. */}}
{{- define "lockstep.enter" -}}
{{- $root := index . 0 -}}
- name: enter
  image: {{ include "lockstep.image" $root }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  command: [enter-cluster]
  env:
    - {name: LOCKSTEP_DIR, value: {{ $root.Values.node.dataDirectory | quote }}}
    - {name: LOCKSTEP_CLUSTER, value: {{ $root.Values.cluster.name | quote }}}
    - {name: LOCKSTEP_FOUNDER, value: {{ $root.Values.cluster.founder | quote }}}
    - {name: LOCKSTEP_NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: LOCKSTEP_HOST, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    - {name: LOCKSTEP_SITE, value: {{ index . 1 | quote }}}
    - {name: LOCKSTEP_ROLE, value: {{ index . 2 | quote }}}
    - {name: LOCKSTEP_CONTROL_PORT, value: {{ $root.Values.node.ports.control | quote }}}
    - {name: LOCKSTEP_DATA_PORT, value: {{ $root.Values.node.ports.data | quote }}}
    - {name: LOCKSTEP_METRICS_PORT, value: {{ $root.Values.node.ports.metrics | quote }}}
    - {name: LOCKSTEP_JOIN, value: /join}
    - name: LOCKSTEP_POOLS
      value: |
        {{- range $root.Values.pools }}
        {{ .name }} {{ .path }} {{ .size | default "" }}
        {{- end }}
{{- end }}

{{/* A daemon's health, told on the node's own address. */}}
{{- define "lockstep.probes" -}}
readinessProbe:
  httpGet: {path: /readyz, port: {{ .Values.node.ports.metrics }}}
  periodSeconds: 5
{{- end }}

{{/* Where pods go that ask the daemon of their own node, on different ones, in different sites: root, component. */}}
{{- define "lockstep.besideDaemons" -}}
{{- $root := index . 0 -}}
affinity:
  # Kubelet sets this label when the node has joined the cluster and the driver runs there: the founder is the first.
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
        - matchExpressions: [{key: topology.lockstep.dev/node, operator: Exists}]
  podAntiAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels: {{- include "lockstep.selector" $root | nindent 12 }}
            app.kubernetes.io/component: {{ index . 1 }}
# Whoever is first waits for the second site: both would be in the founder's otherwise, and stay, and die with it.
topologySpreadConstraints:
  - topologyKey: topology.lockstep.dev/site
    maxSkew: 1
    minDomains: {{ min 2 (len $root.Values.sites) }}
    whenUnsatisfiable: DoNotSchedule
    labelSelector:
      matchLabels: {{- include "lockstep.selector" $root | nindent 8 }}
        app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Tolerations of pods that leave a dead node soon. */}}
{{- define "lockstep.goesSoon" -}}
- {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 10}
- {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 10}
{{- end }}
