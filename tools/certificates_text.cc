#include "tools/certificates_text.h"

#include <algorithm>
#include <array>
#include <ctime>

#include "engram/base/text_table.h"

namespace engram {
namespace {

using std::chrono::days;
using std::chrono::hours;
using std::chrono::seconds;

// A certificate is near its end in the last third of its life, but not before these.
constexpr days kSoon{30};
constexpr days kSoonCa{180};

std::string FormatTime(UnixTime time, const char* format) {
  const auto unix_seconds = static_cast<time_t>(time.time_since_epoch().count());
  std::tm utc{};
  ::gmtime_r(&unix_seconds, &utc);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), format, &utc);
  return text.data();
}

std::string Count(int64_t count, const char* thing) {
  return std::to_string(count) + " " + thing + (count == 1 ? "" : "s");
}

std::string SpanText(seconds span) {
  if (span >= days(2)) return Count(std::chrono::floor<days>(span).count(), "day");
  if (span >= hours(1)) return Count(std::chrono::floor<hours>(span).count(), "hour");
  return Count(std::chrono::floor<std::chrono::minutes>(span).count(), "minute");
}

bool EndsSoon(const CertificateInfo& info, UnixTime now) {
  const seconds life = info.not_after - info.not_before;
  return info.not_after - now < std::min<seconds>(info.is_ca ? kSoonCa : kSoon, life / 3);
}

std::string HostsText(const CertificateInfo& info) {
  std::string text;
  for (const std::string& host : info.hosts) text += (text.empty() ? "" : ", ") + host;
  return text.empty() ? "-" : text;
}

std::string RoleText(const CertificateInfo& info) {
  if (info.is_ca) return "CA";
  return info.role.has_value() ? std::string(RoleName(*info.role)) : "-";
}

std::string OrDash(const std::string& text) { return text.empty() ? "-" : text; }

}  // namespace

std::string DateText(UnixTime time) { return FormatTime(time, "%Y-%m-%d"); }

std::string LeftText(const CertificateInfo& info, UnixTime now) {
  if (now >= info.not_after) return "expired " + SpanText(now - info.not_after) + " ago";
  if (now < info.not_before) return "not before " + DateText(info.not_before);
  return SpanText(info.not_after - now);
}

std::string CertificatesText(const std::vector<FoundCertificate>& found, UnixTime now) {
  std::vector<TableRow> rows = {
      {"NAME", "ROLE", "VALID UNTIL", "LEFT", "HOSTS", "ISSUED BY", "FILE"}};
  for (const auto& [file, info, issuer_unknown] : found) {
    rows.push_back({OrDash(info.name), RoleText(info), DateText(info.not_after),
                    LeftText(info, now), HostsText(info), OrDash(info.issuer), file});
  }
  return TextTable(rows);
}

std::vector<std::string> CertificateWarnings(const std::vector<FoundCertificate>& found,
                                             UnixTime now) {
  std::vector<std::string> warnings;
  for (const auto& [file, info, issuer_unknown] : found) {
    const std::string who = file + " (" + OrDash(info.name) + ") ";
    std::string fix = ": ";
    fix += info.is_ca ? "make a new CA with engramctl certs rotate --ca"
                      : "engramctl certs rotate --name " + info.name;
    std::string left = LeftText(info, now);
    if (now >= info.not_after) {
      warnings.push_back(who + left.append(fix));
    } else if (now < info.not_before) {
      warnings.push_back(who + "is not valid before " + DateText(info.not_before) +
                         ": is the clock right?");
    } else if (EndsSoon(info, now)) {
      warnings.push_back(who + "expires in " + left.append(fix));
    }
    if (!info.is_ca && !info.role.has_value()) {
      warnings.push_back(who + "has not exactly one role: engram processes refuse it");
    }
    if (issuer_unknown) {
      warnings.push_back(who + "is signed by no CA in the ca.crt beside it: others refuse it");
    }
  }
  return warnings;
}

nlohmann::ordered_json CertificateJson(const CertificateInfo& info, const std::string& file,
                                       UnixTime now) {
  static constexpr const char* kIsoTime = "%Y-%m-%dT%H:%M:%SZ";
  nlohmann::ordered_json document = {{"name", info.name}, {"role", nullptr}};
  if (info.role.has_value()) document["role"] = std::string(RoleName(*info.role));
  document["is_ca"] = info.is_ca;
  document["valid_from"] = FormatTime(info.not_before, kIsoTime);
  document["valid_until"] = FormatTime(info.not_after, kIsoTime);
  document["days_left"] = std::chrono::floor<days>(info.not_after - now).count();
  document["hosts"] = info.hosts;
  document["issuer"] = info.issuer;
  document["serial"] = info.serial;
  document["fingerprint_sha256"] = info.fingerprint;
  document["file"] = file;
  return document;
}

}  // namespace engram
