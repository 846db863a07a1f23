// The CA and the certificates of a cluster as one manifest of Kubernetes Secrets: what is there and
// good stays as it is, the rest is made; also the ssh key of model workers whose ranks are in
// several pods. For a Job, whose other container writes them.
#include "tools/certs_secrets_command.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "engram/security/certificate_folder.h"
#include "engram/security/ssh_key.h"

namespace engram {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr int kWithinDays = 30;

struct Options {
  std::string from;
  std::string out;
  std::string name_space;
  std::string ca_secret;
  std::vector<std::string> wanted;
  std::string wanted_ssh;  // empty: none
  int days = kCertificateDays;
  int within_days = kWithinDays;
};

struct Wanted {
  std::string secret;
  CertificateRequest request;
};

struct Ca {
  Certificate signer;
  PrivateKey key;
  std::string bundle_pem;  // what is trusted: the signer, and older ones
  bool made = false;
};

struct Pems {
  std::string certificate;
  std::string key;
  bool made = false;
};

// "SECRET,ROLE,NAME[,HOST...]"
Result<Wanted> ParseWanted(const std::string& text, int days) {
  std::vector<std::string> fields;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t comma = std::min(text.find(',', begin), text.size());
    fields.push_back(text.substr(begin, comma - begin));
    begin = comma + 1;
  }
  const auto role = fields.size() >= 3 ? ParseRole(fields[1]) : std::nullopt;
  if (!role.has_value() || fields[0].empty()) {
    return Error(StatusCode::kInvalidArgument,
                 "--want " + text +
                     ": give SECRET,ROLE,NAME and hosts, such as m-tls,node,m-*,*.m.ns.svc; a role "
                     "is reader, node, coordinator or operator");
  }
  Wanted wanted{fields[0], {*role, fields[2], {fields.begin() + 3, fields.end()}, days}};
  return wanted;
}

bool IsThere(const fs::path& file) {
  std::error_code ignored;
  return fs::exists(file, ignored);
}

Result<Ca> ReadOrMakeCa(const fs::path& dir, UnixTime now) {
  if (!IsThere(dir / kCaFile) && !IsThere(dir / kCaKeyFile)) {
    ENGRAM_ASSIGN_OR_RETURN(PrivateKey key, PrivateKey::Generate());
    ENGRAM_ASSIGN_OR_RETURN(Certificate made, MakeCaCertificate(key, kCaDays, now));
    ENGRAM_ASSIGN_OR_RETURN(std::string pem, made.Pem());
    return Ca{std::move(made), std::move(key), std::move(pem), true};
  }
  ENGRAM_ASSIGN_OR_RETURN(PrivateKey key, ReadPrivateKey(dir / kCaKeyFile));
  ENGRAM_ASSIGN_OR_RETURN(auto bundle, ReadCertificates(dir / kCaFile));
  std::string pem;
  for (const Certificate& ca : bundle) {
    ENGRAM_ASSIGN_OR_RETURN(const std::string one, ca.Pem());
    pem += one;
  }
  const auto signer = std::find_if(bundle.begin(), bundle.end(), [&](const Certificate& ca) {
    return ca.info().is_ca && ca.HasKey(key);
  });
  if (signer == bundle.end()) {
    return Error(StatusCode::kFailedPrecondition,
                 "the key in " + dir.string() +
                     " is of no CA beside it: restore the Secret from a backup, or delete it, and "
                     "every certificate is made anew");
  }
  return Ca{std::move(*signer), std::move(key), std::move(pem), false};
}

std::vector<std::string> HostsOf(const CertificateRequest& request) {
  std::vector<std::string> hosts = request.hosts;
  if (hosts.empty() && CheckCertificateHost(request.name).ok()) hosts.push_back(request.name);
  std::sort(hosts.begin(), hosts.end());
  return hosts;
}

// The certificate and key in `dir`, if they are what is wanted and good for a while.
std::optional<Pems> Present(const fs::path& dir, const Wanted& wanted, const Ca& ca,
                            UnixTime good_until) {
  const auto certificates = ReadCertificates(dir / kCertificateFile);
  const auto key = ReadPrivateKey(dir / kKeyFile);
  if (!certificates.has_value() || !key.has_value()) return std::nullopt;
  const Certificate& present = certificates->front();
  std::vector<std::string> hosts = present.info().hosts;
  std::sort(hosts.begin(), hosts.end());
  const bool good = present.info().name == wanted.request.name &&
                    present.info().role == wanted.request.role &&
                    hosts == HostsOf(wanted.request) && present.info().not_after > good_until &&
                    present.HasKey(*key) && present.IsSignedBy(ca.signer);
  if (!good) return std::nullopt;
  const auto certificate_pem = present.Pem();
  const auto key_pem = key->Pem();
  if (!certificate_pem.has_value() || !key_pem.has_value()) return std::nullopt;
  return Pems{*certificate_pem, *key_pem, false};
}

Result<Pems> Make(const Wanted& wanted, const Ca& ca, UnixTime now) {
  ENGRAM_ASSIGN_OR_RETURN(const PrivateKey key, PrivateKey::Generate());
  ENGRAM_ASSIGN_OR_RETURN(const Certificate made,
                          MakeCertificate(ca.signer, ca.key, key, wanted.request, now));
  ENGRAM_ASSIGN_OR_RETURN(std::string certificate_pem, made.Pem());
  ENGRAM_ASSIGN_OR_RETURN(std::string key_pem, key.Pem());
  return Pems{std::move(certificate_pem), std::move(key_pem), true};
}

ordered_json Secret(const Options& options, const std::string& name, const char* type,
                    ordered_json data) {
  return {{"apiVersion", "v1"},
          {"kind", "Secret"},
          {"metadata",
           {{"name", name},
            {"namespace", options.name_space},
            {"labels", {{"app.kubernetes.io/part-of", "engram-pool"}}}}},
          {"type", type},
          {"stringData", std::move(data)}};
}

// The Secret with a group's ssh key: the one that is there, however old, since hosts that run have
// it too. *made: it is a new one.
Result<ordered_json> SshSecret(const Options& options, bool* made) {
  const fs::path file = fs::path(options.from) / options.wanted_ssh / kSshKeyFile;
  *made = !IsThere(file);
  ENGRAM_ASSIGN_OR_RETURN(const PrivateKey key,
                          *made ? PrivateKey::Generate() : ReadPrivateKey(file));
  ENGRAM_ASSIGN_OR_RETURN(std::string pem, key.Pem());
  ENGRAM_ASSIGN_OR_RETURN(const std::string known, SshPublicKey(key));
  return Secret(options, options.wanted_ssh, "kubernetes.io/ssh-auth",
                {{kSshKeyFile, std::move(pem)},
                 {kSshAuthorizedKeysFile, "restrict " + known + "\n"},
                 {kSshKnownHostsFile, std::string(kSshHostAlias) + " " + known + "\n"}});
}

// Only for the owner: there are keys in it.
Status WriteManifest(const std::string& file, const std::string& text) {
  const auto failed = [&] {
    return Status(StatusCode::kIo, "cannot write " + file + ": " + std::strerror(errno));
  };
  const int out = ::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (out < 0) return failed();
  size_t written = 0;
  while (written < text.size()) {
    const ssize_t count = ::write(out, text.data() + written, text.size() - written);
    if (count <= 0) {
      const Status status = failed();
      ::close(out);
      return status;
    }
    written += static_cast<size_t>(count);
  }
  return ::close(out) == 0 ? Status() : failed();
}

Status Run(const Options& options, bool json) {
  const UnixTime now = std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());
  const fs::path from = options.from;
  const auto ca = ReadOrMakeCa(from / options.ca_secret, now);
  if (!ca.has_value()) return ca.error();
  const auto ca_key_pem = ca->key.Pem();
  if (!ca_key_pem.has_value()) return ca_key_pem.error();
  auto items = ordered_json::array();
  items.push_back(Secret(options, options.ca_secret, "Opaque",
                         {{kCaFile, ca->bundle_pem}, {kCaKeyFile, *ca_key_pem}}));
  std::vector<std::string> made;
  if (ca->made) made.push_back(options.ca_secret);
  for (const std::string& text : options.wanted) {
    const auto wanted = ParseWanted(text, options.days);
    if (!wanted.has_value()) return wanted.error();
    auto pems =
        Present(from / wanted->secret, *wanted, *ca, now + std::chrono::days(options.within_days));
    if (!pems.has_value()) {
      auto fresh = Make(*wanted, *ca, now);
      if (!fresh.has_value()) return fresh.error().WithContext("--want " + text);
      pems = *std::move(fresh);
      made.push_back(wanted->secret);
    }
    items.push_back(Secret(
        options, wanted->secret, "kubernetes.io/tls",
        {{kCaFile, ca->bundle_pem}, {kCertificateFile, pems->certificate}, {kKeyFile, pems->key}}));
  }
  if (!options.wanted_ssh.empty()) {
    bool is_new = false;
    auto secret = SshSecret(options, &is_new);
    if (!secret.has_value()) return secret.error().WithContext("--want-ssh " + options.wanted_ssh);
    if (is_new) made.push_back(options.wanted_ssh);
    items.push_back(*std::move(secret));
  }
  const size_t count = items.size();
  const ordered_json list = {{"apiVersion", "v1"}, {"kind", "List"}, {"items", std::move(items)}};
  ENGRAM_RETURN_IF_ERROR(WriteManifest(options.out, list.dump(1) + "\n"));
  if (json) return PrintJson({{"made", made}, {"kept", count - made.size()}});
  std::string text = options.out + ": " + std::to_string(count) + " secrets, made anew:";
  for (const std::string& name : made) text += " " + name;
  return Print(text + (made.empty() ? " none\n" : "\n"));
}

}  // namespace

void AddCertsSecretsCommand(CLI::App& certs, CommandLine& line) {
  const auto options = std::make_shared<Options>();
  CLI::App* const command = certs.add_subcommand(
      "secrets", "Write certificates as Kubernetes Secrets: those there are stay while good");
  command->footer(
      "--from has a folder for each Secret, as pods mount them; missing ones are made. The "
      "manifest\n"
      "has keys in it, the CA's too: keep it in memory.\n"
      "  engramctl certs secrets --from /have --out /made/secrets.json --namespace ns \\\n"
      "      --ca-secret pool-ca --want 'pool-memory-tls,node,pool-memory-*,*.pool-memory.ns.svc'");
  command->add_option("--from", options->from, "Folder with a folder for each Secret that is there")
      ->type_name("DIR")
      ->required();
  command->add_option("--out", options->out, "The manifest")->type_name("FILE")->required();
  command->add_option("--namespace", options->name_space, "Of the Secrets")->required();
  command
      ->add_option("--ca-secret", options->ca_secret,
                   "Of the CA and its key; whoever reads it makes certificates")
      ->required();
  command->add_option("--want", options->wanted, "A Secret, and whom its certificate is for")
      ->type_name("SECRET,ROLE,NAME[,HOST...]")
      ->required();
  command
      ->add_option(
          "--want-ssh", options->wanted_ssh,
          "A Secret with an ssh key, for model workers whose ranks are in several pods: it "
          "stays while it is there")
      ->type_name("SECRET");
  command->add_option("--days", options->days, "How long certificates are valid")
      ->check(CLI::Range(1, kCertificateDaysMax))
      ->capture_default_str();
  command
      ->add_option("--renew-within-days", options->within_days,
                   "Make those anew that end within so many days")
      ->check(CLI::Range(0, kCertificateDaysMax))
      ->capture_default_str();
  command->callback(
      [options, &line] { line.run = [options, &line] { return Run(*options, line.json); }; });
}

}  // namespace engram
