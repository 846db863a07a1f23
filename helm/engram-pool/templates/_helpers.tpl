{{/* Names. 36 characters at most: a memory node's name and "-*" must fit a certificate's 64. */}}
{{- define "engram.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 36 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "engram.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "engram.labels" -}}
{{ include "engram.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: engram-pool
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* image: an image's values; root */}}
{{- define "engram.image" -}}
{{- $name := .image.repository -}}
{{- with .image.registry -}}{{- $name = printf "%s/%s" . $name -}}{{- end -}}
{{- if .image.digest -}}{{ $name }}@{{ .image.digest }}
{{- else -}}{{ $name }}:{{ default .root.Chart.AppVersion .image.tag }}{{- end -}}
{{- end -}}

{{/* "96Gi" -> bytes */}}
{{- define "engram.bytes" -}}
{{- $factor := get (dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776) (regexFind "[KMGT]i$" .) -}}
{{- printf "%d" (int64 (mulf (float64 (regexFind "^[0-9.]+" .)) (float64 $factor))) -}}
{{- end -}}

{{- define "engram.memoryBase" -}}{{ include "engram.fullname" . }}-memory{{- end -}}

{{/* The StatefulSets of memory nodes, as JSON: [{name, zone, replicas}] */}}
{{- define "engram.memorySets" -}}
{{- $base := include "engram.memoryBase" . -}}
{{- $total := int .Values.memoryNodes.replicas -}}
{{- $zones := .Values.memoryNodes.zones -}}
{{- $sets := list -}}
{{- if $zones -}}
{{- $count := len $zones -}}
{{- range $i, $zone := $zones -}}
{{- $more := ternary 1 0 (lt $i (int (mod $total $count))) -}}
{{- $sets = append $sets (dict "name" (printf "%s-%s" $base $zone) "zone" $zone "replicas" (add (div $total $count) $more)) -}}
{{- end -}}
{{- else -}}
{{- $sets = append $sets (dict "name" $base "zone" "" "replicas" $total) -}}
{{- end -}}
{{- toJson $sets -}}
{{- end -}}

{{/* For --coordinator. One coordinator: the service, whose name is there before any pod and while one restarts; a pod's own name is
not, and that it is not there is remembered by DNS for half a minute. Several: each by its own name, the one that leads is found. */}}
{{- define "engram.coordinators" -}}
{{- $full := include "engram.fullname" . -}}
{{- $list := list -}}
{{- if eq (int .Values.coordinator.replicas) 1 -}}
{{- $list = append $list (printf "%s-coordinator.%s.svc:7000" $full $.Release.Namespace) -}}
{{- else -}}
{{- range $i := until (int .Values.coordinator.replicas) -}}
{{- $list = append $list (printf "%s-coordinator-%d.%s-coordinators.%s.svc:7000" $full $i $full $.Release.Namespace) -}}
{{- end -}}
{{- end -}}
{{- join "," $list -}}
{{- end -}}

{{- define "engram.etcdEndpoints" -}}
{{- if .Values.etcd.enabled -}}
{{- $full := include "engram.fullname" . -}}
{{- $list := list -}}
{{- range $i := until 3 -}}
{{- $list = append $list (printf "%s-etcd-%d.%s-etcd.%s.svc:2379" $full $i $full $.Release.Namespace) -}}
{{- end -}}
{{- join "," $list -}}
{{- else -}}
{{- join "," .Values.etcd.endpoints -}}
{{- end -}}
{{- end -}}

{{/* root, who: coordinator memory worker operator metrics etcd -> the Secret with its certificate */}}
{{- define "engram.tlsSecret" -}}
{{- if eq .root.Values.tls.source "secrets" -}}
{{- get .root.Values.tls.secrets (ternary "etcdClient" .who (eq .who "etcd-client")) -}}
{{- else -}}
{{- include "engram.fullname" .root }}-{{ .who }}-tls
{{- end -}}
{{- end -}}

{{- define "engram.scheme" -}}{{ ternary "HTTPS" "HTTP" .Values.tls.enabled }}{{- end -}}

{{/* Arguments of every program for TLS. */}}
{{- define "engram.tlsArgs" -}}
{{- if .Values.tls.enabled -}}
- --certs=/etc/engram/certs
{{- else -}}
- --insecure
{{- end -}}
{{- end -}}

{{- define "engram.tlsMount" -}}
{{- if .Values.tls.enabled }}
- name: certs
  mountPath: /etc/engram/certs
  readOnly: true
{{- end }}
{{- end -}}

{{- define "engram.tlsVolume" -}}
{{- if .root.Values.tls.enabled }}
- name: certs
  secret:
    secretName: {{ include "engram.tlsSecret" . }}
    defaultMode: 0440
{{- end }}
{{- end -}}

{{- define "engram.modelMount" -}}
- name: model
  mountPath: {{ default .Values.model.path .Values.model.mountPath }}
  readOnly: true
  {{- if and (eq .Values.model.source "pvc") .Values.model.pvc.subPath }}
  subPath: {{ .Values.model.pvc.subPath }}
  {{- end }}
{{- end -}}

{{- define "engram.modelVolume" -}}
- name: model
  {{- if eq .Values.model.source "pvc" }}
  persistentVolumeClaim:
    claimName: {{ .Values.model.pvc.claimName }}
    readOnly: true
  {{- else if eq .Values.model.source "hostPath" }}
  hostPath:
    path: {{ .Values.model.hostPath.path }}
    type: Directory
  {{- else }}
  emptyDir:
    sizeLimit: {{ .Values.model.copy.sizeLimit }}
  {{- end }}
{{- end -}}

{{/* The init container that fills the model's folder; it runs as every other: no root, nothing to write elsewhere. */}}
{{- define "engram.modelCopy" -}}
{{- if eq .Values.model.source "copy" }}
- name: copy-model
  image: {{ .Values.model.copy.image }}
  {{- with .Values.model.copy.command }}
  command: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.model.copy.args }}
  args: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.model.copy.env }}
  env: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.model.copy.envFrom }}
  envFrom: {{- toYaml . | nindent 4 }}
  {{- end }}
  resources: {{- toYaml .Values.model.copy.resources | nindent 4 }}
  securityContext: {{- include "engram.containerSecurity" (dict "root" . "ipcLock" false) | nindent 4 }}
  volumeMounts:
    - name: model
      mountPath: {{ default .Values.model.path .Values.model.mountPath }}
    - name: tmp
      mountPath: /tmp
{{- end }}
{{- end -}}

{{- define "engram.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* root, ipcLock */}}
{{- define "engram.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  {{- if .ipcLock }}
  add: [IPC_LOCK]
  {{- end }}
{{- end -}}

{{/* Where a pool's pods go. */}}
{{- define "engram.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* root, annotations, port: of a pod template, or nothing. A changed list of arguments restarts pods, a new certificate does not. */}}
{{- define "engram.podAnnotations" -}}
{{- $all := deepCopy (default (dict) .annotations) -}}
{{- if and .root.Values.monitoring.annotations .port -}}
{{- $_ := set $all "prometheus.io/scrape" "true" -}}
{{- $_ := set $all "prometheus.io/port" (toString .port) -}}
{{- $_ := set $all "prometheus.io/path" "/metrics" -}}
{{- $_ := set $all "prometheus.io/scheme" (lower (include "engram.scheme" .root)) -}}
{{- end -}}
{{- if $all -}}
annotations: {{- toYaml $all | nindent 2 }}
{{- end -}}
{{- end -}}

{{/* What reads rows and what holds them needs of the hosts. root, at: pod, mounts, volumes, env, resources */}}
{{- define "engram.transportPod" -}}
{{- if .Values.transport.hostNetwork }}
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
{{- end }}
{{- if .Values.transport.hostIPC }}
hostIPC: true
{{- end }}
{{- end -}}

{{/* /dev/shm of a pod's own, where UCX shares memory and the host's is not taken. */}}
{{- define "engram.ownSharedMemory" -}}
{{- if and (ne .Values.transport.mode "tcp") (not .Values.transport.hostIPC) -}}true{{- end -}}
{{- end -}}

{{- define "engram.transportEnv" -}}
{{- range $name, $value := .Values.transport.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* The zone of the host that the pod runs on: Kubernetes 1.35 puts the host's topology labels on pods; empty before. */}}
{{- define "engram.zoneEnv" -}}
- name: ENGRAM_ZONE
  {{- if . }}
  value: {{ . | quote }}
  {{- else }}
  valueFrom:
    fieldRef:
      fieldPath: metadata.labels['topology.kubernetes.io/zone']
  {{- end }}
{{- end -}}

{{/* Where a pod says that it is: its address, not its name. A new pod is told of before DNS knows it, and readers that look
for the name then are told for half a minute that there is none. A pod that comes back has another one, and tells it. */}}
{{- define "engram.addressEnv" -}}
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
{{- end -}}

{{- define "engram.podNameEnv" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- end -}}

{{/* Env of pods that run engramctl or engram-bench. */}}
{{- define "engram.toolEnv" -}}
- name: ENGRAM_COORDINATOR
  value: {{ include "engram.coordinators" . }}
{{- if .Values.tls.enabled }}
- name: ENGRAM_CERTS
  value: /etc/engram/certs
{{- end }}
{{- end -}}

{{- define "engram.insecureArg" -}}
{{- if not .Values.tls.enabled }}
- --insecure
{{- end }}
{{- end -}}

{{/* The certificates of a release, as JSON: [{who, role, name, hosts}]. docs/SECURITY.md says what roles may. With
"etcd" those of a CA of its own: an etcd that trusted the cluster's would let every reader write the state. */}}
{{- define "engram.certificates" -}}
{{- $full := include "engram.fullname" . -}}
{{- $ns := .Release.Namespace -}}
{{- $list := list
  (dict "who" "coordinator" "role" "coordinator" "name" (printf "%s-coordinator" $full) "hosts" (list (printf "*.%s-coordinators.%s.svc" $full $ns) (printf "%s-coordinator" $full) (printf "%s-coordinator.%s.svc" $full $ns)))
  (dict "who" "memory" "role" "node" "name" (printf "%s-memory-*" $full) "hosts" (list (printf "*.%s-memory.%s.svc" $full $ns) (printf "%s-memory" $full)))
  (dict "who" "worker" "role" "reader" "name" (printf "%s-worker" $full) "hosts" (list (printf "%s-model-worker" $full) (printf "%s-model-worker.%s.svc" $full $ns)))
  (dict "who" "operator" "role" "operator" "name" (printf "%s-operator" $full) "hosts" (list))
  (dict "who" "metrics" "role" "reader" "name" (printf "%s-metrics" $full) "hosts" (list))
-}}
{{- if and .Values.etcd.enabled .Values.etcd.tls -}}
{{- $hosts := list -}}
{{- range $i := until 3 -}}
{{- $hosts = append $hosts (printf "%s-etcd-%d.%s-etcd.%s.svc" $full $i $full $ns) -}}
{{- end -}}
{{- /* The service's own name: whichever member answers. */ -}}
{{- $hosts = append $hosts (printf "%s-etcd.%s.svc" $full $ns) -}}
{{- $list = append $list (dict "who" "etcd" "role" "reader" "name" (printf "%s-etcd" $full) "hosts" $hosts "etcd" true) -}}
{{- $list = append $list (dict "who" "etcd-client" "role" "coordinator" "name" (printf "%s-etcd-client" $full) "hosts" (list) "etcd" true) -}}
{{- end -}}
{{- toJson $list -}}
{{- end -}}
