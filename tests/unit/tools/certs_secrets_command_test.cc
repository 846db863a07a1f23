// engramctl certs secrets, as a Job of the Helm chart calls it.
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>

#include "engram/security/certificate_folder.h"
#include "tests/support/child_process.h"

namespace engram {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

const char* const kMemory = "pool-memory-tls,node,pool-memory-*,*.pool-memory.ns.svc";
const char* const kOperator = "pool-operator-tls,operator,pool-operator";

class CertsSecretsTest : public ::testing::Test {
 protected:
  [[nodiscard]] fs::path have() const { return scratch_.path() / "have"; }
  [[nodiscard]] fs::path out() const { return scratch_.path() / "secrets.json"; }

  [[nodiscard]] test::CommandOutput Run(const std::vector<std::string>& wanted,
                                        const std::vector<std::string>& more = {}) const {
    std::vector<std::string> words = {std::string(ENGRAM_BIN_DIR) + "/engramctl",
                                      "certs",
                                      "secrets",
                                      "--from",
                                      have().string(),
                                      "--out",
                                      out().string(),
                                      "--namespace",
                                      "ns",
                                      "--ca-secret",
                                      "pool-ca",
                                      "--json"};
    for (const std::string& one : wanted) words.push_back("--want=" + one);
    words.insert(words.end(), more.begin(), more.end());
    return test::RunCommand(words, std::chrono::seconds(60));
  }
  // The names of what was made anew.
  [[nodiscard]] std::vector<std::string> Made(const std::vector<std::string>& wanted,
                                              const std::vector<std::string>& more = {}) const {
    const auto output = Run(wanted, more);
    EXPECT_EQ(output.exit_status, 0) << output.err;
    const json document = json::parse(output.out, nullptr, false);
    return document.is_object() ? document["made"].get<std::vector<std::string>>()
                                : std::vector<std::string>{};
  }
  [[nodiscard]] json Items() const {
    std::ifstream in(out());
    return json::parse(in)["items"];
  }
  // What the cluster does with the manifest: each Secret is a folder in the next pod.
  void Mount() const {
    for (const json& secret : Items()) {
      const fs::path dir = have() / secret["metadata"]["name"].get<std::string>();
      fs::create_directories(dir);
      for (const auto& [file, text] : secret["stringData"].items()) {
        std::ofstream(dir / file) << text.get<std::string>();
      }
    }
  }

  const test::ScratchDir scratch_;
};

TEST_F(CertsSecretsTest, MakesACaAndWhatIsWantedOnce) {
  EXPECT_THAT(Made({kMemory, kOperator}),
              ElementsAre("pool-ca", "pool-memory-tls", "pool-operator-tls"));
  struct stat file {};
  ASSERT_EQ(::stat(out().c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600u);

  const json first = Items();
  ASSERT_EQ(first.size(), 3u);
  EXPECT_EQ(first[0]["type"], "Opaque");
  const json& memory = first[1];
  EXPECT_EQ(memory["kind"], "Secret");
  EXPECT_EQ(memory["type"], "kubernetes.io/tls");
  EXPECT_EQ(memory["metadata"]["namespace"], "ns");
  const auto certificate =
      Certificate::FromPem(memory["stringData"]["tls.crt"].get<std::string>(), "m");
  const auto ca = Certificate::FromPem(memory["stringData"]["ca.crt"].get<std::string>(), "ca");
  ASSERT_TRUE(certificate.has_value() && ca.has_value());
  EXPECT_EQ(certificate->front().info().name, "pool-memory-*");
  EXPECT_EQ(certificate->front().info().role, Role::kNode);
  EXPECT_THAT(certificate->front().info().hosts, ElementsAre("*.pool-memory.ns.svc"));
  EXPECT_TRUE(certificate->front().IsSignedBy(ca->front()));

  Mount();
  EXPECT_THAT(Made({kMemory, kOperator}), ElementsAre());
  EXPECT_EQ(Items(), first);
}

TEST_F(CertsSecretsTest, OnlyWhatIsNoLongerRightIsMadeAnew) {
  ASSERT_EQ(Made({kMemory, kOperator}).size(), 3u);
  Mount();
  const std::string moved = "pool-memory-tls,node,pool-memory-*,*.pool-memory.other.svc";
  EXPECT_THAT(Made({moved, kOperator}), ElementsAre("pool-memory-tls"));
  EXPECT_THAT(Made({kMemory, "pool-operator-tls,reader,pool-operator"}),
              ElementsAre("pool-operator-tls"));
  EXPECT_THAT(Made({kMemory, kOperator}, {"--renew-within-days", "91"}),
              UnorderedElementsAre("pool-memory-tls", "pool-operator-tls"));
  // A key of another certificate.
  fs::copy_file(have() / "pool-operator-tls" / "tls.key", have() / "pool-memory-tls" / "tls.key",
                fs::copy_options::overwrite_existing);
  EXPECT_THAT(Made({kMemory, kOperator}), ElementsAre("pool-memory-tls"));
  fs::remove_all(have() / "pool-ca");
  EXPECT_EQ(Made({kMemory, kOperator}).size(), 3u) << "of a CA that is gone nothing is good";
}

TEST_F(CertsSecretsTest, AnSshKeyIsMadeOnceAndIsWhatOpenSshTakesItFor) {
  const std::vector<std::string> ssh = {"--want-ssh", "pool-ranks-ssh"};
  EXPECT_THAT(Made({kMemory}, ssh), ElementsAre("pool-ca", "pool-memory-tls", "pool-ranks-ssh"));
  const json secret = Items()[2];
  EXPECT_EQ(secret["type"], "kubernetes.io/ssh-auth");
  Mount();
  EXPECT_THAT(Made({kMemory}, ssh), ElementsAre());
  EXPECT_EQ(Items()[2], secret);

  const fs::path dir = have() / "pool-ranks-ssh";
  fs::permissions(dir / "ssh-privatekey", fs::perms::owner_read);
  const auto known =
      test::RunCommand({"/usr/bin/ssh-keygen", "-y", "-f", (dir / "ssh-privatekey").string()},
                       std::chrono::seconds(60));
  ASSERT_EQ(known.exit_status, 0) << known.err;
  const std::string line = known.out.substr(0, known.out.find('\n'));
  EXPECT_EQ(secret["stringData"]["authorized_keys"], "restrict " + line + "\n");
  EXPECT_EQ(secret["stringData"]["known_hosts"], "engram-ranks " + line + "\n");

  fs::permissions(dir / "ssh-privatekey", fs::perms::owner_all);
  std::ofstream(dir / "ssh-privatekey") << "no key";
  const auto output = Run({kMemory}, ssh);
  EXPECT_EQ(output.exit_status, 1);
  EXPECT_THAT(output.err, HasSubstr("pool-ranks-ssh"));
}

TEST_F(CertsSecretsTest, ACaWithAnotherKeyIsNotReplacedSilently) {
  ASSERT_EQ(Made({kMemory}).size(), 2u);
  Mount();
  fs::copy_file(have() / "pool-memory-tls" / "tls.key", have() / "pool-ca" / "ca.key",
                fs::copy_options::overwrite_existing);
  const auto output = Run({kMemory});
  EXPECT_EQ(output.exit_status, 1);
  EXPECT_THAT(output.err, AllOf(HasSubstr("FAILED_PRECONDITION"), HasSubstr("restore the Secret")));
}

TEST_F(CertsSecretsTest, WrongWishesSayHowTheyAreWritten) {
  for (const char* wanted : {"x", "x,node", "x,king,y", ",node,y"}) {
    const auto output = Run({wanted});
    EXPECT_EQ(output.exit_status, 1) << wanted;
    EXPECT_THAT(output.err, HasSubstr("give SECRET,ROLE,NAME and hosts")) << wanted;
  }
  EXPECT_THAT(Run({"x,reader,gpu-*"}).err, HasSubstr("only memory nodes have"));
  EXPECT_THAT(Run({"x,node,m*1"}).err, HasSubstr("cannot be a certificate's name"));
  EXPECT_FALSE(fs::exists(out()));
}

}  // namespace
}  // namespace engram
