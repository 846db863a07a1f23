#include "coordinator/store_flags.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <filesystem>
#include <string_view>
#include <utility>

#include <spdlog/spdlog.h>

#include "coordinator/etcd_store.h"
#include "coordinator/sqlite_store.h"
#include "engram/security/certificate_folder.h"

namespace engram {
namespace {

constexpr std::string_view kOnce = "once";  // --restored without a name
// etcd's members may be on their way still, and the snapshot's leader has its lease.
constexpr std::chrono::seconds kRestoredPatience{60};

Status Wrong(const std::string& what) { return {StatusCode::kInvalidArgument, what}; }

Status CheckEtcdFlags(const StoreFlags& flags, const EtcdAddress& address, bool insecure) {
  if (address.tls && flags.etcd_certs.empty()) {
    return Wrong(
        "--store https://... needs --etcd-certs FOLDER, with ca.crt (who signed etcd's "
        "certificate), tls.crt and tls.key (what this coordinator shows to etcd)");
  }
  if (!address.tls && !flags.etcd_certs.empty()) {
    return Wrong("--etcd-certs is for TLS, and --store " + flags.store +
                 " is without: write https:// there, or leave --etcd-certs out");
  }
  if (address.tls || insecure) return Status();
  for (const std::string& endpoint : address.endpoints) {
    ENGRAM_RETURN_IF_ERROR(CheckPlainEtcd(endpoint));
  }
  return Status();
}

// An etcd that trusts the cluster's CA lets every reader and node write there.
void WarnOfOneCa(const std::string& etcd_certs, const std::string& certs) {
  if (certs.empty()) return;
  const auto own = ReadCertificates(std::filesystem::path(etcd_certs) / kCertificateFile);
  const auto cluster = ReadCertificates(std::filesystem::path(certs) / kCaFile);
  if (!own.has_value() || !cluster.has_value()) return;
  for (const Certificate& ca : *cluster) {
    if (!own->front().IsSignedBy(ca)) continue;
    spdlog::warn(
        "the certificate in {} is of the CA of --certs: an etcd that trusts this CA lets whoever "
        "has one of its certificates, each reader too, change the cluster's state. Give etcd a CA "
        "of its own (engramctl certs init --dir etcd-certs)",
        etcd_certs);
    return;
  }
}

Status CheckRestoredName(const std::string& name) {
  const bool good = name != kOnce && name.size() <= 64 &&
                    std::all_of(name.begin(), name.end(), [](unsigned char c) {
                      return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.' || c == ':';
                    });
  return good ? Status()
              : Wrong(
                    "--restored needs a name for this restore where the state is in etcd, of up "
                    "to 64 letters, digits and -_.: such as --restored=2026-11-28, and for each "
                    "restore another");
}

}  // namespace

void AddStoreFlags(CLI::App* app, StoreFlags* flags) {
  CLI::Option* state = app->add_option("--state", flags->state,
                                       "The SQLite file to keep state in; made when missing");
  app->add_flag("--restored{once}", flags->restored,
                "The state is a copy from earlier that was put in place: give out no term, version "
                "or epoch that may have been given since. As --restored=NAME, any name for this "
                "restore (2026-11-28): the state keeps it and it counts once, for all "
                "coordinators, so it may stay in their flags; for each restore another. Without a "
                "name, for --state only, it counts at each start: not in a service's flags");
  app->add_option("--store", flags->store,
                  "Where to keep state: https://HOST:PORT,HOST:PORT/PREFIX, an etcd under mutual "
                  "TLS with --etcd-certs; etcd://HOST:PORT,HOST:PORT/PREFIX, one without TLS, on "
                  "loopback only; or sqlite:FILE, which is --state FILE")
      ->excludes(state);
  app->add_option("--etcd-certs", flags->etcd_certs,
                  "Folder with ca.crt, tls.crt and tls.key for TLS to etcd: etcd's certificate "
                  "must be of this CA and for the host in --store, and etcd is shown tls.crt. New "
                  "files are taken without a restart. Use a CA that signs for etcd alone "
                  "(engramctl certs init --dir etcd-certs): who has a certificate that etcd takes "
                  "may change everything")
      ->type_name("FOLDER")
      ->group("Security");
  app->add_option("--leader-lease-s", flags->leader_lease_s,
                  "With etcd: so long after a leader is lost another may lead")
      ->capture_default_str()
      ->check(CLI::Range(2, 60));
}

Result<std::unique_ptr<MetadataStore>> OpenStore(const StoreFlags& flags,
                                                 const SecurityFlags& security,
                                                 std::shared_ptr<TlsIdentity>* etcd_identity) {
  etcd_identity->reset();
  constexpr std::string_view kSqlite = "sqlite:";
  const std::string file =
      flags.store.starts_with(kSqlite) ? flags.store.substr(kSqlite.size()) : flags.state;
  if (!file.empty()) {
    if (!flags.etcd_certs.empty()) {
      return Error(Wrong("--etcd-certs is for --store https://..., and the state is in " + file));
    }
    ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<SqliteStore> store, SqliteStore::Open(file));
    if (flags.restored == kOnce) {
      ENGRAM_TRY(store->SkipGiven({}));
      spdlog::info("{} is a copy: terms, versions and epochs go on far above it", file);
    } else if (!flags.restored.empty()) {
      ENGRAM_TRY(CheckRestoredName(flags.restored));
      ENGRAM_TRY(store->SkipGiven(flags.restored));
      spdlog::info("{} was restored as '{}': terms, versions and epochs go on far above the copy",
                   file, flags.restored);
    }
    return store;
  }
  if (flags.store.empty()) {
    return Error(Wrong("give --state FILE, or --store https://HOST:PORT/PREFIX"));
  }
  EtcdStore::Options options;
  auto address = ParseEtcdAddress(flags.store);
  if (!address.has_value()) return Error(address.error().WithContext("--store"));
  options.address = *std::move(address);
  options.lease = std::chrono::seconds(flags.leader_lease_s);
  options.insecure = security.insecure;
  ENGRAM_TRY(CheckEtcdFlags(flags, options.address, security.insecure));
  if (options.address.tls) {
    auto identity = TlsIdentity::LoadWithoutRole(flags.etcd_certs);
    if (!identity.has_value()) return Error(identity.error().WithContext("--etcd-certs"));
    options.identity = *std::move(identity);
    *etcd_identity = options.identity;
    WarnOfOneCa(flags.etcd_certs, security.certs);
  }
  auto store = std::make_unique<EtcdStore>(std::move(options));
  if (!flags.restored.empty()) {
    ENGRAM_TRY(CheckRestoredName(flags.restored));
    ENGRAM_TRY(store->SkipGiven(flags.restored, SteadyClock().Now() + kRestoredPatience)
                   .WithContext("--restored=" + flags.restored));
    spdlog::info("the state was restored as '{}': terms, versions and epochs go on far above it",
                 flags.restored);
  }
  return store;
}

}  // namespace engram
