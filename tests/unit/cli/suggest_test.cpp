#include "volumed/cli/suggest.h"

#include <gtest/gtest.h>

#include <CLI/CLI.hpp>

namespace cvol::cli {
namespace {

TEST(Suggest, TheNearestWordIsMeant) {
  const std::vector<std::string> known = {"create", "ls", "inspect", "resize", "rm"};
  EXPECT_EQ(nearest("creat", known), "create");
  EXPECT_EQ(nearest("crate", known), "create");
  EXPECT_EQ(nearest("reszie", known), "resize");
  EXPECT_EQ(nearest("ins", known), "inspect");
  EXPECT_EQ(nearest("sl", known), "ls");
  EXPECT_EQ(nearest("frobnicate", known), "");
  EXPECT_EQ(nearest(std::string(100000, 'x'), known), "");
}

class Unknown : public testing::Test {
 protected:
  Unknown() {
    app_.add_option("--api", api_, "");
    CLI::App* volume = app_.add_subcommand("volume", "");
    volume->add_subcommand("create", "")->add_option("NAME", name_, "");
    app_.add_subcommand("status", "");
  }
  std::string explain(std::vector<const char*> words) {
    words.insert(words.begin(), "cvol");
    return explain_unknown(app_, static_cast<int>(words.size()), words.data());
  }
  CLI::App app_{"", "cvol"};
  std::string api_;
  std::string name_;
};

TEST_F(Unknown, WordIsNamedWithWhatWasMeant) {
  EXPECT_NE(explain({"volum", "ls"}).find("'cvol volum'; did you mean 'cvol volume'?"),
            std::string::npos);
  EXPECT_NE(explain({"volume", "craete"}).find("did you mean 'cvol volume create'?"),
            std::string::npos);
  EXPECT_NE(explain({"--api", "unix:/x", "stauts"}).find("'cvol stauts'"), std::string::npos);
}

TEST_F(Unknown, WordsThatAreArgumentsAreNone) {
  EXPECT_EQ(explain({"volume", "create", "anything"}), "");
  EXPECT_EQ(explain({"volume"}), "");
  EXPECT_EQ(explain({}), "");
  EXPECT_EQ(explain({"volume", "--help"}), "");
}

}  // namespace
}  // namespace cvol::cli
