#include "volumed/cli/output.h"

#include <cvol/v1/cvol.pb.h>
#include <gtest/gtest.h>

#include "volumed/cli/commands.h"

namespace cvol::cli {
namespace {

TEST(Output, AlignsColumnsAndLeavesNoTrailingSpaces) {
  EXPECT_EQ(format_table({{"NAME", "SIZE", "X"}, {"a", "10GiB", ""}}),
            "NAME  SIZE   X\na     10GiB\n");
}

TEST(Output, ShowsEveryFieldAndNumbersAsNumbers) {
  v1::Volume volume;
  volume.set_name("pg");
  volume.set_size_bytes(uint64_t{1} << 50);
  volume.add_mount_ids("a");
  (*volume.mutable_labels())["team"] = "db";
  volume.mutable_created()->set_seconds(0);
  const auto json = to_json(volume);
  EXPECT_EQ(json["size_bytes"], uint64_t{1} << 50);
  EXPECT_EQ(json["mount_ids"][0], "a");
  EXPECT_EQ(json["labels"]["team"], "db");
  EXPECT_EQ(json["created"], "1970-01-01T00:00:00Z");
  EXPECT_EQ(json["device"], "");
  EXPECT_TRUE(to_json(v1::Scrub())["completed"].is_null());
  EXPECT_EQ(json["formatted"], false);
}

TEST(ExitCodes, TellKindsOfFailureApart) {
  EXPECT_EQ(exit_of(Code::kNotFound), 3);
  EXPECT_EQ(exit_of(Code::kUnavailable), 4);
  EXPECT_EQ(exit_of(Code::kBusy), 5);
  EXPECT_EQ(exit_of(Code::kDamaged), 1);
}

}  // namespace
}  // namespace cvol::cli
