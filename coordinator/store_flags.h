// The flags that say where the coordinator keeps its state: --state, --restored, --store,
// --etcd-certs, --leader-lease-s.
#pragma once

#include <memory>
#include <string>

#include <CLI/App.hpp>

#include "coordinator/metadata_store.h"
#include "engram/base/status.h"
#include "engram/security/security_flags.h"

namespace engram {

struct StoreFlags {
  std::string state;       // SQLite file
  std::string restored;    // it is a copy from earlier, this one: see SkipGiven of the stores
  std::string store;       // see ParseEtcdAddress, or sqlite:FILE
  std::string etcd_certs;  // folder; empty: etcd is spoken to without TLS
  int leader_lease_s = 3;
};

void AddStoreFlags(CLI::App* app, StoreFlags* flags);

// Opens what the flags name; etcd itself need not be there yet. Without TLS etcd must be on
// loopback, unless `security` says --insecure. ERRORS: kInvalidArgument (flags that contradict each
// other, no certificates with https), those of SqliteStore::Open and TlsIdentity::Load.
//   etcd_identity  becomes what etcd is shown; null where there is no TLS to it
[[nodiscard]] Result<std::unique_ptr<MetadataStore>> OpenStore(
    const StoreFlags& flags, const SecurityFlags& security,
    std::shared_ptr<TlsIdentity>* etcd_identity);

}  // namespace engram
