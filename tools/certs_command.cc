// Certificates: the CA of a cluster, and who its processes are to each other.
#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engram/security/certificate_folder.h"
#include "tools/certificates_text.h"
#include "tools/certs_secrets_command.h"
#include "tools/command.h"

namespace engram {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr const char* kDefaultDir = "certs";
constexpr int kWithinDays = 30;
constexpr int kWithinDaysMax = 1'000'000;

struct Options {
  std::string dir = kDefaultDir;
  int days = 0;  // 0: as usual for what is made
  std::string role;
  CertificateRequest request;
  std::vector<std::string> names;
  int within_days = kWithinDays;
  bool ca = false;
  bool drop_old_ca = false;
  std::vector<std::string> paths;
};

UnixTime Now() {
  return std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());
}

// "engramctl certs issue", with --dir where it is not the usual one.
std::string CommandText(const Options& options, const std::string& rest) {
  return "  engramctl certs " + rest + (options.dir == kDefaultDir ? "" : " --dir " + options.dir) +
         "\n";
}

std::string DirFile(const Options& options, const char* file) {
  return (fs::path(options.dir) / file).string();
}

// ---- init ----

Status RunInit(const Options& options, bool json) {
  const UnixTime now = Now();
  const auto folder =
      CertificateFolder::Create(options.dir, options.days == 0 ? kCaDays : options.days, now);
  if (!folder.has_value()) return folder.error();
  const CertificateInfo& ca = folder->ca().info();
  const std::string ca_file = DirFile(options, kCaFile);
  if (json) return PrintJson(CertificateJson(ca, ca_file, now));
  return Print(ca_file + ": " + ca.name + ", valid until " + DateText(ca.not_after) + "\n" +
               DirFile(options, kCaKeyFile) +
               ": its key. Whoever has it can make certificates: it stays here\n"
               "Next, a certificate for each process and each operator, such as\n" +
               CommandText(options, "issue --role coordinator --name c1 --host 10.0.0.1") +
               CommandText(options, "issue --role node --name m1 --host 10.0.0.2") +
               CommandText(options, "issue --role reader --name worker1 --host 10.0.0.3") +
               CommandText(options, "issue --role operator --name admin"));
}

// ---- issue ----

Status RunIssue(const Options& options, bool json) {
  const UnixTime now = Now();
  auto folder = CertificateFolder::Open(options.dir);
  if (!folder.has_value()) return folder.error();
  CertificateRequest request = options.request;
  request.role = ParseRole(options.role).value_or(Role::kReader);  // one of AddIssue's
  request.days = options.days == 0 ? kCertificateDays : options.days;
  const auto made = folder->Issue(request, now);
  if (!made.has_value()) return made.error();
  const CertificateInfo& info = made->info();
  const fs::path own = fs::path(options.dir) / request.name;
  if (json) return PrintJson(CertificateJson(info, (own / kCertificateFile).string(), now));
  std::string text = own.string() + ": " + std::string(RoleName(request.role)) + " " + info.name +
                     ", valid until " + DateText(info.not_after);
  if (info.not_after == folder->ca().info().not_after) text += ", when the CA ends";
  text += "\n";
  if (info.hosts.empty()) {
    text += "It is of no host, as its name cannot be one: a server may need --host\n";
  }
  if (folder->bundle().size() > 1) {
    text += "The CA is being replaced: processes without the new ca.crt refuse this certificate\n";
  }
  return Print(text + "Copy the folder to the machine of the process, which gets it as --certs " +
               own.string() + "\n");
}

// ---- rotate ----

struct Failure {
  std::string name;
  Status status;
};

// The names to make new certificates for. Those that cannot be read do not keep the others from it.
Result<std::vector<std::string>> ChooseNames(const Options& options, UnixTime now,
                                             std::vector<Failure>& failures) {
  if (!options.names.empty()) return options.names;
  ENGRAM_ASSIGN_OR_RETURN(const auto all, CertificateNames(options.dir));
  const UnixTime before = now + std::chrono::days(options.within_days);
  std::vector<std::string> chosen;
  for (const std::string& name : all) {
    const auto present = ReadCertificates(fs::path(options.dir) / name / kCertificateFile);
    if (!present.has_value()) {
      failures.push_back({name, present.error()});
    } else if (present->front().info().not_after <= before) {
      chosen.push_back(name);
    }
  }
  return chosen;
}

Status ShowRotated(const std::vector<FoundCertificate>& rotated,
                   const std::vector<Failure>& failures, UnixTime now, CommandLine& line) {
  if (line.json) {
    ordered_json document = {{"rotated", ordered_json::array()}, {"failed", ordered_json::array()}};
    for (const auto& certificate : rotated) {
      document["rotated"].push_back(CertificateJson(certificate.info, certificate.file, now));
    }
    for (const auto& [name, status] : failures) {
      document["failed"].push_back({{"name", name},
                                    {"code", std::string(StatusCodeName(status.code()))},
                                    {"message", status.message()}});
    }
    line.json_done = true;
    return PrintJson(document);
  }
  if (rotated.empty()) return Status();
  return Print(CertificatesText(rotated, now) +
               "A process takes the new files by itself; copy them where it has its own\n");
}

Status RunRotateNames(const Options& options, CommandLine& line) {
  const UnixTime now = Now();
  auto folder = CertificateFolder::Open(options.dir);
  if (!folder.has_value()) return folder.error();
  std::vector<Failure> failures;
  const auto names = ChooseNames(options, now, failures);
  if (!names.has_value()) return names.error();
  std::vector<FoundCertificate> rotated;
  for (const std::string& name : *names) {
    const auto made =
        folder->Reissue(name, options.days == 0 ? kCertificateDays : options.days, now);
    if (!made.has_value()) {
      failures.push_back({name, made.error()});
      continue;
    }
    rotated.push_back(
        {(fs::path(options.dir) / name / kCertificateFile).string(), made->info(), false});
  }
  ENGRAM_RETURN_IF_ERROR(ShowRotated(rotated, failures, now, line));
  if (failures.empty()) {
    if (!rotated.empty() || line.json) return Status();
    return Print("no certificate in " + options.dir + " expires within " +
                 std::to_string(options.within_days) + " days\n");
  }
  const Status& first = failures.front().status;
  if (failures.size() == 1) return first;
  return first.WithContext(std::to_string(failures.size()) + " were not rotated; the first");
}

Status RunRotateCa(const Options& options, bool json) {
  const UnixTime now = Now();
  auto folder = CertificateFolder::Open(options.dir);
  if (!folder.has_value()) return folder.error();
  ENGRAM_RETURN_IF_ERROR(folder->RotateCa(options.days == 0 ? kCaDays : options.days, now));
  const CertificateInfo& ca = folder->ca().info();
  const std::string ca_file = DirFile(options, kCaFile);
  if (json) {
    ordered_json document = CertificateJson(ca, ca_file, now);
    document["trusted_cas"] = folder->bundle().size();
    return PrintJson(document);
  }
  return Print(
      ca_file + ": " + ca.name + " signs from now on, valid until " + DateText(ca.not_after) +
      "; older CAs are trusted as before\n"
      "1. Let every process take the new ca.crt: it does so by itself where its folder is here,\n"
      "   copy it to the others\n"
      "2. Then replace all certificates, and copy them:\n" +
      "   " + CommandText(options, "rotate --within-days 100000") +
      "3. When every process has its new one, stop trusting the older CAs, and copy ca.crt again:\n"
      "   " +
      CommandText(options, "rotate --drop-old-ca"));
}

Status RunDropOldCas(const Options& options, bool json) {
  auto folder = CertificateFolder::Open(options.dir);
  if (!folder.has_value()) return folder.error();
  const auto dropped = folder->DropOldCas();
  if (!dropped.has_value()) return dropped.error();
  std::vector<std::string> names;
  for (const Certificate& ca : *dropped) names.push_back(ca.info().name);
  const std::string& kept = folder->ca().info().name;
  if (json) return PrintJson({{"ca", kept}, {"dropped", names}});
  if (names.empty()) return Print(kept + " is the only CA already\n");
  std::string text = "only " + kept + " is trusted now, no more:";
  for (const std::string& name : names) text += "\n  " + name;
  return Print(text + "\nCopy ca.crt to processes that have a folder of their own\n");
}

Status RunRotate(const Options& options, CommandLine& line) {
  if (options.ca) return RunRotateCa(options, line.json);
  if (options.drop_old_ca) return RunDropOldCas(options, line.json);
  return RunRotateNames(options, line);
}

// ---- show ----

struct Findings {
  std::vector<FoundCertificate> found;
  std::vector<Status> errors;
};

// Whether a CA in the ca.crt beside, or one that is in the file itself, signed the first.
bool IssuerIsKnown(const fs::path& file, const std::vector<Certificate>& certificates) {
  const auto bundle = ReadCertificates(file.parent_path() / kCaFile);
  if (!bundle.has_value()) return true;  // no claim
  const auto signed_it = [&](const Certificate& ca) { return certificates[0].IsSignedBy(ca); };
  return std::any_of(bundle->begin(), bundle->end(), signed_it) ||
         std::any_of(certificates.begin() + 1, certificates.end(), signed_it);
}

void FindInFile(const fs::path& file, Findings& findings) {
  const auto certificates = ReadCertificates(file);
  if (!certificates.has_value()) {
    findings.errors.push_back(certificates.error());
    return;
  }
  const bool unknown = file.filename() == kCertificateFile && !IssuerIsKnown(file, *certificates);
  for (size_t i = 0; i < certificates->size(); ++i) {
    findings.found.push_back({file.string(), (*certificates)[i].info(), unknown && i == 0});
  }
}

void FindInFolder(const fs::path& dir, Findings& findings) {
  const auto names = CertificateNames(dir);
  if (!names.has_value()) {
    findings.errors.push_back(names.error());
    return;
  }
  std::error_code ignored;
  std::vector<fs::path> files;
  for (const char* file : {kCaFile, kCertificateFile}) {
    if (fs::exists(dir / file, ignored)) files.push_back(dir / file);
  }
  for (const std::string& name : *names) files.push_back(dir / name / kCertificateFile);
  if (files.empty()) {
    findings.errors.emplace_back(StatusCode::kNotFound,
                                 dir.string() +
                                     " has no certificates: engramctl certs init, then "
                                     "certs issue, make some");
  }
  for (const fs::path& file : files) FindInFile(file, findings);
}

Status RunShow(const Options& options, CommandLine& line) {
  const UnixTime now = Now();
  Findings findings;
  std::vector<std::string> paths = options.paths;
  if (paths.empty()) paths.push_back(options.dir);
  for (const std::string& path : paths) {
    std::error_code ignored;
    if (fs::is_directory(path, ignored)) {
      FindInFolder(path, findings);
    } else {
      FindInFile(path, findings);
    }
  }
  const auto warnings = CertificateWarnings(findings.found, now);
  if (line.json) {
    ordered_json document = {{"certificates", ordered_json::array()},
                             {"warnings", warnings},
                             {"errors", ordered_json::array()}};
    for (const auto& certificate : findings.found) {
      document["certificates"].push_back(CertificateJson(certificate.info, certificate.file, now));
    }
    for (const Status& error : findings.errors) document["errors"].push_back(error.ToString());
    line.json_done = true;
    ENGRAM_RETURN_IF_ERROR(PrintJson(document));
  } else if (!findings.found.empty()) {
    std::string text = CertificatesText(findings.found, now);
    for (const std::string& warning : warnings) text += "WARNING: " + warning + "\n";
    ENGRAM_RETURN_IF_ERROR(Print(text));
  }
  if (findings.errors.empty()) return Status();
  const Status& first = findings.errors.front();
  if (findings.errors.size() == 1) return first;
  return first.WithContext(std::to_string(findings.errors.size()) +
                           " could not be shown; the first");
}

// ---- The command line ----

using Shared = std::shared_ptr<Options>;

CLI::App* AddCommand(CLI::App& certs, const char* name, const char* help, const Shared& options) {
  CLI::App* const command = certs.add_subcommand(name, help);
  command->add_option("--dir", options->dir, "The folder with the CA")
      ->type_name("DIR")
      ->capture_default_str();
  return command;
}

void AddDays(CLI::App& command, const Shared& options, const std::string& usual) {
  command.add_option("--days", options->days, "How long it is valid")
      ->check(CLI::Range(1, kCertificateDaysMax))
      ->default_str(usual);
}

void AddInit(CLI::App& certs, CommandLine& line) {
  const auto options = std::make_shared<Options>();
  CLI::App* const command =
      AddCommand(certs, "init", "Make the CA that signs a cluster's certificates", options);
  AddDays(*command, options, std::to_string(kCaDays));
  command->callback(
      [options, &line] { line.run = [options, &line] { return RunInit(*options, line.json); }; });
}

void AddIssue(CLI::App& certs, CommandLine& line) {
  const auto options = std::make_shared<Options>();
  CLI::App* const command =
      AddCommand(certs, "issue",
                 "Make a certificate: the folder NAME, which a process gets as --certs", options);
  command->footer(
      "Needs ca.key: run it where engramctl certs init was run. The folder has the files of a\n"
      "Kubernetes TLS secret.\n"
      "  engramctl certs issue --role node --name m1 --host m1.example.net --host 10.0.0.2");
  command
      ->add_option("--role", options->role,
                   "reader: reads rows (model workers); node: a memory node; coordinator; "
                   "operator: changes the cluster, with engramctl")
      ->check(CLI::IsMember({"reader", "node", "coordinator", "operator"}).description(""))
      ->type_name("ROLE")
      ->required();
  command
      ->add_option("--name", options->request.name,
                   "The process's own; of a memory node, its --id, or a prefix of "
                   "several and '*'")
      ->type_name("NAME")
      ->required();
  command
      ->add_option("--host", options->request.hosts,
                   "Host names and IP addresses under which others reach it (default: the name)")
      ->type_name("HOST_OR_IP");
  AddDays(*command, options, std::to_string(kCertificateDays));
  command->callback(
      [options, &line] { line.run = [options, &line] { return RunIssue(*options, line.json); }; });
}

void AddRotate(CLI::App& certs, CommandLine& line) {
  const auto options = std::make_shared<Options>();
  CLI::App* const command = AddCommand(
      certs, "rotate", "Replace certificates, by default all that expire soon, or the CA", options);
  command->footer(
      "A new certificate has a new key, and the role, name and hosts of the old one. Processes\n"
      "take it without a restart. The CA is replaced in three steps, without a pause:\n"
      "  engramctl certs rotate --ca                  new and old CA are trusted\n"
      "  engramctl certs rotate --within-days 100000  all certificates are of the new one\n"
      "  engramctl certs rotate --drop-old-ca         the old one is trusted no more");
  CLI::Option* const names =
      command->add_option("--name", options->names, "Those to replace, however long they are valid")
          ->type_name("NAME");
  CLI::Option* const within =
      command->add_option("--within-days", options->within_days, "All that expire in so many days")
          ->check(CLI::Range(0, kWithinDaysMax))
          ->excludes(names)
          ->capture_default_str();
  AddDays(*command, options,
          std::to_string(kCertificateDays) + ", with --ca " + std::to_string(kCaDays));
  CLI::Option* const ca =
      command->add_flag("--ca", options->ca, "Make a new CA; the old one stays trusted")
          ->excludes(names)
          ->excludes(within);
  command->add_flag("--drop-old-ca", options->drop_old_ca, "Trust only the CA that signs now")
      ->excludes(names)
      ->excludes(within)
      ->excludes(ca);
  command->callback(
      [options, &line] { line.run = [options, &line] { return RunRotate(*options, line); }; });
}

void AddShow(CLI::App& certs, CommandLine& line) {
  const auto options = std::make_shared<Options>();
  CLI::App* const command = AddCommand(
      certs, "show", "Show certificates: whose they are, how long they are valid", options);
  command->add_option("path", options->paths, "Files and folders, instead of --dir")
      ->type_name("PATH");
  command->callback(
      [options, &line] { line.run = [options, &line] { return RunShow(*options, line); }; });
}

}  // namespace

void AddCertsCommand(CLI::App& app, CommandLine& line) {
  CLI::App* const certs = app.add_subcommand(
      "certs", "Make, replace and show the certificates by which processes know each other");
  certs->require_subcommand(1);
  certs->footer(
      "Every process gets a folder of its own, as --certs:\n"
      "  engramctl certs init\n"
      "  engramctl certs issue --role coordinator --name c1 --host 10.0.0.1\n"
      "  engram-coordinator --certs certs/c1 ...\n"
      "  engramctl certs show\n"
      "Once a day, by cron or a timer: engramctl certs rotate");
  AddInit(*certs, line);
  AddIssue(*certs, line);
  AddRotate(*certs, line);
  AddShow(*certs, line);
  AddCertsSecretsCommand(*certs, line);
}

}  // namespace engram
