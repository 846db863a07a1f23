# cmake --install BUILD --component COMPONENT [--prefix /usr] [--strip]: a component for each image
# (deploy/images), and the units for hosts without containers (deploy/systemd).
include(GNUInstallDirs)
install(TARGETS engram-coordinator engram-shard-server engramctl engram-bench
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT services)
# With engramctl: its probe is the health check of a container that has no curl.
install(TARGETS engram-model-worker engramctl
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT model-worker)
install(FILES deploy/systemd/engram-coordinator.service deploy/systemd/engram-shard-server.service
  deploy/systemd/engram-model-worker.service deploy/systemd/engram-certs-renew.service
  deploy/systemd/engram-certs-renew.timer DESTINATION lib/systemd/system COMPONENT systemd)
install(FILES deploy/systemd/engram-pool.sysusers DESTINATION lib/sysusers.d
  RENAME engram-pool.conf COMPONENT systemd)
install(FILES deploy/systemd/coordinator.env deploy/systemd/shard-server.env
  deploy/systemd/model-worker.env deploy/systemd/rdma.conf deploy/systemd/gpu.conf
  DESTINATION share/engram-pool/examples COMPONENT systemd)
install(PROGRAMS deploy/systemd/copy-certs DESTINATION share/engram-pool/examples COMPONENT systemd)
install(FILES docs/OPERATIONS.md docs/SECURITY.md docs/METRICS.md DESTINATION share/doc/engram-pool COMPONENT systemd)
