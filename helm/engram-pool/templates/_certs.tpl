{{/* root, name, ca, certificates, sshSecret: an init container that makes the Secrets of one CA. */}}
{{- define "engram.makeCerts" -}}
{{- $root := .root -}}
{{- $full := include "engram.fullname" $root -}}
- name: {{ .name }}
  image: {{ include "engram.image" (dict "root" $root "image" $root.Values.image) }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  command: [/usr/bin/engramctl, certs, secrets]
  args:
    - --from=/have
    - --out=/made/{{ .ca }}.json
    - --namespace={{ $root.Release.Namespace }}
    - --ca-secret={{ $full }}-{{ .ca }}
    - --days={{ $root.Values.tls.certificateDays }}
    - --renew-within-days={{ $root.Values.tls.job.renewWithinDays }}
    {{- with .sshSecret }}
    - --want-ssh={{ . }}
    {{- end }}
    {{- range $c := .certificates }}
    - --want={{ printf "%s-%s-tls,%s,%s" $full $c.who $c.role $c.name }}{{ range $c.hosts }},{{ . }}{{ end }}
    {{- end }}
  terminationMessagePolicy: FallbackToLogsOnError
  resources:
    requests: {cpu: 50m, memory: 64Mi}
    limits: {memory: 128Mi}
  securityContext: {{- include "engram.containerSecurity" (dict "root" $root "ipcLock" false) | nindent 4 }}
  volumeMounts:
    - name: made
      mountPath: /made
    - name: {{ .ca }}
      mountPath: /have/{{ $full }}-{{ .ca }}
      readOnly: true
    {{- with .sshSecret }}
    - name: ranks-ssh
      mountPath: /have/{{ . }}
      readOnly: true
    {{- end }}
    {{- range $c := .certificates }}
    - name: {{ $c.who }}
      mountPath: /have/{{ $full }}-{{ $c.who }}-tls
      readOnly: true
    {{- end }}
{{- end -}}

{{/* root, name: makes what is missing or ends soon, from what is there; kubectl writes the Secrets. */}}
{{- define "engram.certsJob" -}}
{{- $root := .root -}}
{{- $full := include "engram.fullname" $root -}}
{{- $certificates := include "engram.certificates" $root | fromJsonArray -}}
{{- $own := list -}}
{{- $etcd := list -}}
{{- $sshSecret := ternary (include "engram.ranksSecret" $root) "" (eq (include "engram.makesRanksSecret" $root) "true") -}}
{{- range $c := $certificates -}}
{{- if hasKey $c "etcd" -}}{{- $etcd = append $etcd $c -}}{{- else -}}{{- $own = append $own $c -}}{{- end -}}
{{- end -}}
backoffLimit: 3
activeDeadlineSeconds: 300
template:
  metadata:
    labels: {{- include "engram.labels" (dict "root" $root "component" "certificates") | nindent 6 }}
  spec:
    restartPolicy: Never
    serviceAccountName: {{ .name }}
    automountServiceAccountToken: false
    enableServiceLinks: false
    securityContext: {{- include "engram.podSecurity" $root | nindent 6 }}
    {{- with $root.Values.imagePullSecrets }}
    imagePullSecrets: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with include "engram.scheduling" (dict "nodeSelector" $root.Values.operator.nodeSelector "tolerations" $root.Values.operator.tolerations) }}
    {{- . | nindent 4 }}
    {{- end }}
    initContainers:
      {{- include "engram.makeCerts" (dict "root" $root "name" "make" "ca" "ca" "certificates" $own "sshSecret" $sshSecret) | nindent 6 }}
      {{- if $etcd }}
      {{- include "engram.makeCerts" (dict "root" $root "name" "make-etcd" "ca" "etcd-ca" "certificates" $etcd) | nindent 6 }}
      {{- end }}
    containers:
      - name: write
        image: {{ include "engram.image" (dict "root" $root "image" $root.Values.tls.job.kubectlImage) }}
        imagePullPolicy: {{ $root.Values.tls.job.kubectlImage.pullPolicy }}
        # Not every image's entrypoint is kubectl.
        command: [kubectl]
        args: [apply, --server-side, --force-conflicts, --field-manager=engram-pool, --filename=/made]
        env:
          - {name: HOME, value: /tmp}
        terminationMessagePolicy: FallbackToLogsOnError
        resources:
          requests: {cpu: 50m, memory: 64Mi}
          limits: {memory: 256Mi}
        securityContext: {{- include "engram.containerSecurity" (dict "root" $root "ipcLock" false) | nindent 10 }}
        volumeMounts:
          - name: made
            mountPath: /made
            readOnly: true
          - name: tmp
            mountPath: /tmp
          # The API server's token for this container only.
          - name: token
            mountPath: /var/run/secrets/kubernetes.io/serviceaccount
            readOnly: true
    volumes:
      - name: made
        emptyDir: {medium: Memory, sizeLimit: 4Mi}
      - name: tmp
        emptyDir: {}
      - name: token
        projected:
          defaultMode: 0440
          sources:
            - serviceAccountToken: {path: token, expirationSeconds: 3600}
            - configMap:
                name: kube-root-ca.crt
                items: [{key: ca.crt, path: ca.crt}]
            - downwardAPI:
                items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]
      - name: ca
        secret: {secretName: {{ $full }}-ca, optional: true, defaultMode: 0440}
      {{- if $etcd }}
      - name: etcd-ca
        secret: {secretName: {{ $full }}-etcd-ca, optional: true, defaultMode: 0440}
      {{- end }}
      {{- with $sshSecret }}
      - name: ranks-ssh
        secret: {secretName: {{ . }}, optional: true, defaultMode: 0440}
      {{- end }}
      {{- range $c := $certificates }}
      - name: {{ $c.who }}
        secret: {secretName: {{ $full }}-{{ $c.who }}-tls, optional: true, defaultMode: 0440}
      {{- end }}
{{- end -}}

{{/* root, component, who, name, command, args, mounts (JSON), volumes (JSON), resources, account: a pod that runs one of our tools once */}}
{{- define "engram.toolPod" -}}
{{- $root := .root -}}
{{- /* Where rows are read over a device, the pod has it. The operator's has none: it needs no card of its host, and what is set for
one (UCX_NET_DEVICES) would leave UCX without TCP. */ -}}
{{- $device := and .rows (ne .who "operator") -}}
{{- $devices := dict -}}
{{- if $device -}}{{- range $name, $count := $root.Values.transport.deviceResources -}}{{- $_ := set $devices $name (toString $count) -}}{{- end -}}{{- end -}}
{{- $transportEnv := and .rows (or $device (empty $root.Values.transport.deviceResources)) -}}
{{- with .account }}
serviceAccountName: {{ . }}
{{- end }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext: {{- include "engram.podSecurity" $root | nindent 2 }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "engram.scheduling" (dict "nodeSelector" .nodeSelector "tolerations" .tolerations) }}
{{ . }}
{{- end }}
{{- if .model }}
{{- with include "engram.modelCopy" $root }}
initContainers: {{- . | nindent 2 }}
{{- end }}
{{- end }}
containers:
  - name: {{ .name }}
    image: {{ include "engram.image" (dict "root" $root "image" $root.Values.image) }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    command: {{- toYaml .command | nindent 6 }}
    env:
      {{- include "engram.toolEnv" $root | nindent 6 }}
      {{- if .rows }}
      {{- include "engram.zoneEnv" "" | nindent 6 }}
      {{- end }}
      {{- if $transportEnv }}
      {{- with include "engram.transportEnv" $root }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- end }}
    # The last lines of the log are the reason, in kubectl describe.
    terminationMessagePolicy: FallbackToLogsOnError
    resources:
      requests: {{- toYaml (merge (dict) (default (dict) .resources.requests) $devices) | nindent 8 }}
      limits: {{- toYaml (merge (dict) (default (dict) .resources.limits) $devices) | nindent 8 }}
    securityContext: {{- include "engram.containerSecurity" (dict "root" $root "ipcLock" (and $device $root.Values.transport.ipcLock)) | nindent 6 }}
    volumeMounts:
      - name: tmp
        mountPath: /tmp
      {{- if .model }}
      {{- include "engram.modelMount" $root | nindent 6 }}
      {{- end }}
      {{- with include "engram.tlsMount" $root }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- if .account }}
      - name: token
        mountPath: /var/run/secrets/kubernetes.io/serviceaccount
        readOnly: true
      {{- end }}
      {{- with .claimName }}
      - name: results
        mountPath: /results
      {{- end }}
volumes:
  - name: tmp
    emptyDir: {}
  {{- if .model }}
  {{- include "engram.modelVolume" $root | nindent 2 }}
  {{- end }}
  {{- with include "engram.tlsVolume" (dict "root" $root "who" .who) }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- if .account }}
  - name: token
    projected:
      defaultMode: 0440
      sources:
        - serviceAccountToken: {path: token, expirationSeconds: 3600}
        - configMap:
            name: kube-root-ca.crt
            items: [{key: ca.crt, path: ca.crt}]
        - downwardAPI:
            items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]
  {{- end }}
  {{- with .claimName }}
  - name: results
    persistentVolumeClaim:
      claimName: {{ . }}
  {{- end }}
{{- end -}}
