// engramctl certs, as a person and as a program call it.
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "engram/security/certificate_folder.h"
#include "tests/support/child_process.h"
#include "tools/certificates_text.h"

namespace engram {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using std::chrono::days;
using std::chrono::hours;
using std::chrono::seconds;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr UnixTime kNow{seconds(1'790'000'000)};  // 2026-09-21

CertificateInfo InfoEndingIn(seconds left, days life = days(90)) {
  CertificateInfo info;
  info.name = "m1";
  info.role = Role::kNode;
  info.not_after = kNow + left;
  info.not_before = info.not_after - life;
  return info;
}

// ---- Texts ----

TEST(CertificatesTextTest, LeftIsInTheUnitThatMatters) {
  const auto left = [](seconds span) { return LeftText(InfoEndingIn(span), kNow); };
  EXPECT_EQ(left(days(89) + hours(23)), "89 days");
  EXPECT_EQ(left(days(2)), "2 days");
  EXPECT_EQ(left(days(2) - seconds(1)), "47 hours");
  EXPECT_EQ(left(hours(1)), "1 hour");
  EXPECT_EQ(left(seconds(90)), "1 minute");
  EXPECT_EQ(left(seconds(1)), "0 minutes");
  EXPECT_EQ(left(seconds(0)), "expired 0 minutes ago");
  EXPECT_EQ(left(-days(3)), "expired 3 days ago");
  EXPECT_EQ(left(days(91)), "not before 2026-09-22");
}

TEST(CertificatesTextTest, WarnsInTheLastThirdAndAfterTheEnd) {
  const auto warnings = [](const CertificateInfo& info) {
    return CertificateWarnings({{"certs/m1/tls.crt", info, false}}, kNow);
  };
  EXPECT_THAT(warnings(InfoEndingIn(days(30))), IsEmpty());
  EXPECT_THAT(warnings(InfoEndingIn(days(30) - seconds(1))),
              ElementsAre("certs/m1/tls.crt (m1) expires in 29 days: engramctl certs rotate "
                          "--name m1"));
  EXPECT_THAT(warnings(InfoEndingIn(days(3), days(6))), IsEmpty());
  EXPECT_THAT(warnings(InfoEndingIn(days(1), days(6))),
              ElementsAre(HasSubstr("expires in 24 hours")));
  EXPECT_THAT(warnings(InfoEndingIn(-hours(5))), ElementsAre(HasSubstr("expired 5 hours ago")));
  EXPECT_THAT(warnings(InfoEndingIn(days(91))), ElementsAre(HasSubstr("not valid before")));
  CertificateInfo ca = InfoEndingIn(days(170), days(3650));
  ca.is_ca = true;
  ca.role.reset();
  EXPECT_THAT(warnings(ca), ElementsAre(HasSubstr("certs rotate --ca")));
  CertificateInfo nobody = InfoEndingIn(days(80));
  nobody.role.reset();
  EXPECT_THAT(warnings(nobody), ElementsAre(HasSubstr("has not exactly one role")));
  EXPECT_THAT(CertificateWarnings({{"f", InfoEndingIn(days(80)), true}}, kNow),
              ElementsAre(HasSubstr("signed by no CA in the ca.crt beside it")));
}

// ---- The command ----

class CertsCommandTest : public ::testing::Test {
 protected:
  [[nodiscard]] fs::path dir() const { return scratch_.path() / "certs"; }
  // engramctl certs WORDS --dir DIR.
  [[nodiscard]] test::CommandOutput Certs(std::vector<std::string> words) const {
    words.insert(words.begin(), {std::string(ENGRAM_BIN_DIR) + "/engramctl", "certs"});
    words.insert(words.end(), {"--dir", dir().string()});
    return test::RunCommand(words, std::chrono::seconds(60));
  }
  // What must succeed.
  [[nodiscard]] std::string Out(const std::vector<std::string>& words) const {
    const auto output = Certs(words);
    EXPECT_EQ(output.exit_status, 0) << output.err;
    return output.out;
  }
  [[nodiscard]] json Json(std::vector<std::string> words) const {
    words.emplace_back("--json");
    return json::parse(Out(words));
  }

  const test::ScratchDir scratch_;
};

TEST_F(CertsCommandTest, InitAndIssueSayWhatToDoNext) {
  const auto early = Certs({"issue", "--role", "node", "--name", "m1"});
  EXPECT_EQ(early.exit_status, 1);
  EXPECT_THAT(early.err, AllOf(HasSubstr("NOT_FOUND"), HasSubstr("certs init")));

  EXPECT_THAT(Out({"init"}), AllOf(HasSubstr("ca.key: its key"),
                                   HasSubstr("engramctl certs issue --role node --name m1"),
                                   HasSubstr("--dir " + dir().string())));
  const auto again = Certs({"init", "--json"});
  EXPECT_EQ(again.exit_status, 1);
  EXPECT_THAT(again.err, AllOf(HasSubstr("ALREADY_EXISTS"), HasSubstr("rotate --ca")));
  EXPECT_EQ(json::parse(again.out)["error"]["code"], "ALREADY_EXISTS");

  EXPECT_THAT(Out({"issue", "--role", "node", "--name", "m1"}),
              HasSubstr("--certs " + (dir() / "m1").string()));
  EXPECT_THAT(Out({"issue", "--role", "reader", "--name", "17"}), HasSubstr("--host"));
  const json made = Json({"issue", "--role", "operator", "--name", "admin", "--days", "7", "--host",
                          "10.0.0.1", "--host", "a.b"});
  EXPECT_EQ(made["role"], "operator");
  EXPECT_EQ(made["days_left"], 7);
  EXPECT_EQ(made["hosts"], json({"10.0.0.1", "a.b"}));
  EXPECT_EQ(made["file"], (dir() / "admin" / "tls.crt").string());
}

TEST_F(CertsCommandTest, WrongUsageExitsWithTwoAndMakesNothing) {
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{"dance"},
                                             {"init", "--days", "0"},
                                             {"issue", "--role", "king", "--name", "x"},
                                             {"issue", "--name", "x"},
                                             {"issue", "--role", "node"},
                                             {"rotate", "--ca", "--name", "x"},
                                             {"rotate", "--ca", "--drop-old-ca"},
                                             {"rotate", "--name", "x", "--within-days", "3"}}) {
    EXPECT_EQ(Certs(words).exit_status, 2) << words.back();
  }
  EXPECT_FALSE(fs::exists(dir()));
  (void)Out({"init"});
  const auto outside = Certs({"issue", "--role", "node", "--name", "../x"});
  EXPECT_EQ(outside.exit_status, 1);
  EXPECT_THAT(outside.err, HasSubstr("INVALID_ARGUMENT: '../x'"));
  EXPECT_FALSE(fs::exists(scratch_.path() / "x"));
}

TEST_F(CertsCommandTest, RotateTakesWhatExpiresSoonOrWhatIsNamed) {
  (void)Out({"init"});
  const auto serial = [&](const std::string& name) {
    const auto read = ReadCertificates(dir() / name / "tls.crt");
    return read.has_value() ? read->front().info().serial : read.error().ToString();
  };
  (void)Out({"issue", "--role", "node", "--name", "soon", "--days", "20"});
  (void)Out({"issue", "--role", "node", "--name", "late"});
  const std::string soon = serial("soon");
  const std::string late = serial("late");
  EXPECT_THAT(Out({"rotate", "--within-days", "10"}), HasSubstr("expires within 10 days"));
  EXPECT_EQ(serial("soon"), soon);
  EXPECT_THAT(Out({"rotate"}), AllOf(HasSubstr("soon"), Not(HasSubstr("late"))));
  EXPECT_NE(serial("soon"), soon);
  EXPECT_EQ(serial("late"), late);
  const json named = Json({"rotate", "--name", "late", "--days", "200"});
  ASSERT_EQ(named["rotated"].size(), 1u);
  EXPECT_EQ(named["rotated"][0]["days_left"], 200);
  EXPECT_EQ(named["rotated"][0]["serial"], serial("late"));
}

TEST_F(CertsCommandTest, OneThatCannotBeRotatedDoesNotKeepTheOthersFromIt) {
  (void)Out({"init"});
  (void)Out({"issue", "--role", "node", "--name", "a"});
  (void)Out({"issue", "--role", "node", "--name", "b"});
  std::ofstream(dir() / "a" / "tls.crt") << "rubbish";
  const auto rotated = Certs({"rotate", "--within-days", "1000", "--json"});
  EXPECT_EQ(rotated.exit_status, 1);
  EXPECT_THAT(rotated.err, HasSubstr("MALFORMED: " + (dir() / "a" / "tls.crt").string()));
  const json document = json::parse(rotated.out);
  EXPECT_EQ(document["rotated"][0]["name"], "b");
  EXPECT_EQ(document["failed"][0]["name"], "a");
  EXPECT_EQ(document["failed"][0]["code"], "MALFORMED");
}

TEST_F(CertsCommandTest, CaIsReplacedInThreeSteps) {
  (void)Out({"init"});
  (void)Out({"issue", "--role", "node", "--name", "m1"});
  EXPECT_THAT(Out({"rotate", "--ca"}), AllOf(HasSubstr("1. "), HasSubstr("--within-days 100000"),
                                             HasSubstr("--drop-old-ca --dir")));
  EXPECT_THAT(Out({"issue", "--role", "node", "--name", "m2"}), HasSubstr("being replaced"));
  const auto early = Certs({"rotate", "--drop-old-ca"});
  EXPECT_EQ(early.exit_status, 1);
  EXPECT_THAT(early.err, AllOf(HasSubstr("FAILED_PRECONDITION"), HasSubstr("m1/tls.crt")));
  EXPECT_EQ(Json({"rotate", "--within-days", "100000"})["rotated"].size(), 2u);
  EXPECT_EQ(Json({"rotate", "--drop-old-ca"})["dropped"].size(), 1u);
  EXPECT_THAT(Out({"rotate", "--drop-old-ca"}), HasSubstr("only CA already"));
  const json shown = Json({"show"});
  EXPECT_EQ(shown["certificates"].size(), 3u);
  EXPECT_THAT(shown["warnings"], IsEmpty());
}

TEST_F(CertsCommandTest, ShowListsAllAndFailsForWhatCannotBeRead) {
  EXPECT_EQ(Certs({"show"}).exit_status, 1);
  (void)Out({"init"});
  (void)Out({"issue", "--role", "node", "--name", "m1", "--host", "10.0.0.2"});
  const std::string table = Out({"show"});
  EXPECT_THAT(table,
              AllOf(HasSubstr("VALID UNTIL"), HasSubstr("engram-pool CA "), HasSubstr("10.0.0.2"),
                    HasSubstr("m1/tls.crt"), Not(HasSubstr("WARNING"))));
  const json shown = Json({"show"});
  ASSERT_EQ(shown["certificates"].size(), 2u);
  EXPECT_EQ(shown["certificates"][0]["is_ca"], true);
  EXPECT_EQ(shown["certificates"][0]["role"], nullptr);
  EXPECT_EQ(shown["certificates"][1]["issuer"], shown["certificates"][0]["name"]);
  EXPECT_EQ(Json({"show", (dir() / "m1").string()})["certificates"].size(), 2u);
  EXPECT_EQ(Json({"show", (dir() / "ca.crt").string()})["certificates"].size(), 1u);

  const auto missing = Certs({"show", (dir() / "m1").string(), (dir() / "nothing").string()});
  EXPECT_EQ(missing.exit_status, 1);
  EXPECT_THAT(missing.out, HasSubstr("m1/tls.crt"));
  EXPECT_THAT(missing.err, HasSubstr((dir() / "nothing").string()));
  // A key is no certificate.
  EXPECT_EQ(Certs({"show", (dir() / "ca.key").string()}).exit_status, 1);
  const auto empty = Certs({"show", scratch_.path().string()});
  EXPECT_EQ(empty.exit_status, 1);
  EXPECT_THAT(empty.err, HasSubstr("no certificates"));
}

TEST_F(CertsCommandTest, ShowWarnsOfABundleThatDoesNotKnowTheIssuer) {
  (void)Out({"init"});
  (void)Out({"issue", "--role", "node", "--name", "m1", "--days", "3"});
  (void)Out({"rotate", "--ca"});
  (void)Out({"rotate", "--name", "m1"});
  (void)Out({"rotate", "--drop-old-ca"});
  const std::string other = (scratch_.path() / "other").string();
  (void)test::RunCommand(
      {std::string(ENGRAM_BIN_DIR) + "/engramctl", "certs", "init", "--dir", other},
      std::chrono::seconds(60));
  fs::copy_file(other + "/ca.crt", dir() / "m1" / "ca.crt", fs::copy_options::overwrite_existing);
  EXPECT_THAT(Out({"show"}), HasSubstr("WARNING: " + (dir() / "m1" / "tls.crt").string() +
                                       " (m1) is signed by no CA"));
}

}  // namespace
}  // namespace engram
