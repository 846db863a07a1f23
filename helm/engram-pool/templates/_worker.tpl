{{/* Ranks that share one model: of a pod, of a pod group. */}}
{{- define "engram.ranks" -}}
{{- $w := .Values.modelWorkers -}}
{{- mul (int $w.tensorParallel) (ternary (int $w.leaderWorkerSet.size) 1 $w.leaderWorkerSet.enabled) -}}
{{- end -}}

{{/* The group's Secret: its ssh key. */}}
{{- define "engram.ranksSecret" -}}
{{- default (printf "%s-ranks-ssh" (include "engram.fullname" .)) .Values.modelWorkers.leaderWorkerSet.sshSecret -}}
{{- end -}}

{{/* Whether the certificates' Job makes it. */}}
{{- define "engram.makesRanksSecret" -}}
{{- $l := .Values.modelWorkers.leaderWorkerSet -}}
{{- if and .Values.modelWorkers.enabled $l.enabled (empty $l.sshSecret) -}}true{{- end -}}
{{- end -}}

{{/* The pods of a group as mpirun is told them, the leader first. $(POD_NAME) is the leader's name, NAME-ranks-0;
the others are called NAME-ranks-0-1 and so on. */}}
{{- define "engram.rankHosts" -}}
{{- $domain := printf "%s-ranks.%s.svc" (include "engram.fullname" .) .Release.Namespace -}}
{{- $hosts := list (printf "$(POD_NAME).%s" $domain) -}}
{{- range $i := until (int .Values.modelWorkers.leaderWorkerSet.size) -}}
{{- if $i -}}{{- $hosts = append $hosts (printf "$(POD_NAME)-%d.%s" $i $domain) -}}{{- end -}}
{{- end -}}
{{- join "," $hosts -}}
{{- end -}}

{{- define "engram.workerImage" -}}
{{- $image := deepCopy .Values.workerImage -}}
{{- if empty $image.repository -}}
{{- $_ := set $image "repository" (ternary "engram-pool-model-worker-cuda" "engram-pool-model-worker" (eq .Values.modelWorkers.backend "cuda")) -}}
{{- end -}}
{{- include "engram.image" (dict "root" . "image" $image) -}}
{{- end -}}

{{/* root, follows: the template of a worker's pod. follows: it only has ranks that the leader of its group starts. */}}
{{- define "engram.workerPod" -}}
{{- $root := .root -}}
{{- $follows := .follows -}}
{{- $w := $root.Values.modelWorkers -}}
{{- $grouped := $w.leaderWorkerSet.enabled -}}
{{- $ranks := int (include "engram.ranks" $root) -}}
{{- $self := dict "root" $root "component" (ternary "model-worker-ranks" "model-worker" $follows) -}}
{{- $ownShared := and (or (gt $ranks 1) (include "engram.ownSharedMemory" $root)) (not $root.Values.transport.hostIPC) -}}
metadata:
  labels: {{- include "engram.labels" $self | nindent 4 }}
    engram-pool/rows: "true"
    {{- if $grouped }}
    engram-pool/ranks: "true"
    {{- end }}
  {{- with include "engram.podAnnotations" (dict "root" $root "annotations" (merge (dict) $w.podAnnotations $root.Values.transport.podAnnotations) "port" (ternary 0 (int $w.port) $follows)) }}
  {{- . | nindent 2 }}
  {{- end }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ $w.terminationGracePeriodSeconds }}
  {{- with include "engram.transportPod" $root }}
  {{- . | nindent 2 }}
  {{- end }}
  securityContext: {{- include "engram.podSecurity" $root | nindent 4 }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "engram.scheduling" $w }}
  {{- . | nindent 2 }}
  {{- end }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "engram.selector" $self | nindent 10 }}
  {{- with include "engram.modelCopy" $root }}
  initContainers: {{- . | nindent 4 }}
  {{- end }}
  containers:
    - name: model-worker
      image: {{ include "engram.workerImage" $root }}
      imagePullPolicy: {{ $root.Values.workerImage.pullPolicy }}
      {{- if $follows }}
      # Ranks come over ssh from the leader's mpirun, with its arguments.
      command: [/usr/bin/engram-ranks, --follow]
      {{- else }}
      {{- if gt $ranks 1 }}
      # mpirun, which ends its ranks as one process ends.
      command: [/usr/bin/engram-ranks]
      args:
        - {{ $w.tensorParallel | quote }}
        {{- if $grouped }}
        - --hosts
        - {{ include "engram.rankHosts" $root }}
        - --wait
        - {{ $w.startupSeconds | quote }}
        {{- end }}
        - /usr/bin/engram-model-worker
        - serve
        - --tensor-parallel={{ $ranks }}
      {{- else }}
      command: [/usr/bin/engram-model-worker]
      args:
        - serve
      {{- end }}
        - --model={{ $root.Values.model.path }}
        - --backend={{ $w.backend }}
        - --coordinator={{ include "engram.coordinators" $root }}
        - --listen=0.0.0.0:{{ $w.port }}
        - --transport={{ $root.Values.transport.mode }}
        - --one-sided={{ $root.Values.transport.oneSided }}
        - --zone
        - $(ENGRAM_ZONE)
        - --concurrency={{ $w.concurrency }}
        - --positions={{ $w.positions }}
        - --queue={{ $w.queue }}
        - --drain-timeout-s={{ int $w.finishSeconds }}
        - --cache-bytes={{ include "engram.bytes" $w.cacheBytes }}
        - --io-threads={{ $w.ioThreads }}
        - --io-spin-us={{ $w.ioSpinUs }}
        # Tables that load for long, or are not made yet, are no reason to load the weights again.
        - --tables-timeout-s={{ $w.startupSeconds }}
        {{- with $w.modelName }}
        - --model-name={{ . }}
        {{- end }}
        {{- include "engram.tlsArgs" $root | nindent 8 }}
        {{- with $w.extraArgs }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
      env:
        {{- include "engram.zoneEnv" $w.zone | nindent 8 }}
        {{- if and $grouped (not $follows) }}
        - name: POD_NAME
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        {{- end }}
        {{- with include "engram.transportEnv" $root }}
        {{- . | nindent 8 }}
        {{- end }}
      ports:
        {{- if $follows }}
        - {name: ssh, containerPort: 2222}
        {{- else }}
        - {name: http, containerPort: {{ $w.port }}}
        {{- end }}
      {{- with int $w.drainSeconds }}
      # Told to end at once it would refuse what the service still sends it.
      lifecycle:
        preStop:
          exec:
            command: [/usr/bin/sleep, {{ . | quote }}]
      {{- end }}
      {{- if not $follows }}
      # It listens when the weights are loaded and rows can be read{{ if gt $ranks 1 }}, by every rank{{ end }}.
      startupProbe:
        httpGet: {path: /readyz, port: http, scheme: {{ include "engram.scheme" $root }}}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: {{ add1 (div (int $w.startupSeconds) 5) }}
      readinessProbe:
        httpGet: {path: /readyz, port: http, scheme: {{ include "engram.scheme" $root }}}
        periodSeconds: 2
        timeoutSeconds: 2
      livenessProbe:
        httpGet: {path: /healthz, port: http, scheme: {{ include "engram.scheme" $root }}}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      {{- end }}
      resources:
        {{- $devices := dict }}
        {{- if eq $w.backend "cuda" }}{{- $_ := set $devices $w.gpuResource (toString $w.tensorParallel) }}{{- end }}
        {{- range $device, $count := $root.Values.transport.deviceResources }}{{- $_ := set $devices $device (toString $count) }}{{- end }}
        requests: {{- toYaml (merge (dict) (default (dict) $w.resources.requests) $devices) | nindent 10 }}
        limits: {{- toYaml (merge (dict) (default (dict) $w.resources.limits) $devices) | nindent 10 }}
      securityContext: {{- include "engram.containerSecurity" (dict "root" $root "ipcLock" $root.Values.transport.ipcLock) | nindent 8 }}
      volumeMounts:
        - name: tmp
          mountPath: /tmp
        {{- include "engram.modelMount" $root | nindent 8 }}
        {{- with include "engram.tlsMount" $root }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- if $grouped }}
        - name: ranks
          mountPath: /etc/engram/ranks
          readOnly: true
        {{- end }}
        {{- if $ownShared }}
        - name: shared-memory
          mountPath: /dev/shm
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {}
    {{- include "engram.modelVolume" $root | nindent 4 }}
    {{- with include "engram.tlsVolume" (dict "root" $root "who" "worker") }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- if $grouped }}
    - name: ranks
      secret: {secretName: {{ include "engram.ranksSecret" $root }}, defaultMode: 0440}
    {{- end }}
    {{- if $ownShared }}
    - name: shared-memory
      emptyDir:
        medium: Memory
        sizeLimit: {{ ternary $w.sharedMemory "2Gi" (gt $ranks 1) }}
    {{- end }}
{{- end -}}
