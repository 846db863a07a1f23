# cmake --install BUILD --component COMPONENT [--prefix /usr] [--strip]: a component for each image
# (deploy/images), and the units for hosts without containers (deploy/systemd).
include(GNUInstallDirs)
install(TARGETS engram-coordinator engram-shard-server engramctl engram-bench
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT services)
install(TARGETS engram-model-worker
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT model-worker)
