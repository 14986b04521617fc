#include "volumed/daemon/config.h"

#include <gtest/gtest.h>

namespace cvol::daemon {
namespace {

TEST(Config, ReadsEveryKindOfKey) {
  Config config;
  const Status status = parse_config(R"(
    data-dir = "/data/"
    nbd-listen = ["127.0.0.1:10809", "[::1]:10809"]
    listen = "tcp:127.0.0.1:9481"
    journal-size = "1GiB"
    buffer-size = 67108864
    read-cache = "none"
    insecure = true
    http = "off"
    scrub-rate = "64MiB/s"
    scrub-interval = "36h"
    strict-reads = true
  )",
                                     config);
  ASSERT_TRUE(status.is_ok()) << status.message();
  EXPECT_EQ(config.data_dir, "/data");
  EXPECT_EQ(config.nbd_listen.size(), 2u);
  EXPECT_EQ(config.listen[0], "tcp:127.0.0.1:9481");
  EXPECT_EQ(config.journal_size, kGiB);
  EXPECT_EQ(config.buffer_size, 64 * kMiB);
  EXPECT_EQ(config.read_cache, "none");
  EXPECT_TRUE(config.insecure);
  EXPECT_TRUE(config.strict_reads);
  EXPECT_EQ(config.scrub_rate, 64 * kMiB);
  EXPECT_EQ(config.scrub_interval, 36u * 3600);
  ASSERT_TRUE(parse_config("scrub-interval = 0", config).is_ok());
  EXPECT_EQ(config.scrub_interval, 0u);
}

TEST(Config, RefusesUnknownKeysByName) {
  Config config;
  const Status status = parse_config("data_dir = \"/x\"", config);
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("'data_dir'"), std::string::npos);
}

TEST(Config, NamesTheKeyOrTheLineOfABadValue) {
  for (const char* text :
       {"data-dir = \"relative\"", "data-dir = 1.5", "data-dir = [\"/a\"]", "log-level = \"loud\"",
        "http = \"nowhere\"", "metadata = \"sqlite:/x\"", "journal-size = \"1KiB\"",
        "insecure = \"yes\"", "strict-reads = \"yes\"", "buffer-size = 0", "buffer-size = \"1MiB\"",
        "scrub-rate = \"1KiB/s\"", "scrub-rate = \"0\"", "scrub-interval = \"5min\"",
        "scrub-interval = \"14\"", "scrub-interval = \"400d\"", "[table]\nx = 1",
        "not toml at all"}) {
    Config config;
    EXPECT_FALSE(parse_config(text, config).is_ok()) << text;
  }
}

TEST(Config, TakesEitherKindOfMetadataStore) {
  for (const char* store : {"rocksdb:/x/meta", "etcd:127.0.0.1:2379",
                            "etcd:10.0.0.1:2379,node-2.example:2379,[fd00::3]:2379"}) {
    Config config;
    const Status status = parse_config("metadata = \"" + std::string(store) + "\"", config);
    EXPECT_TRUE(status.is_ok()) << status.message();
    EXPECT_EQ(config.metadata, store);
  }
  for (const char* store : {"etcd:", "etcd:host", "etcd:a:1,", "etcd:a:1,,b:2", "etcd:a:99999",
                            "etcd:http://a:2379", "etcd:unix:/x", "rocksdb:relative"}) {
    Config config;
    EXPECT_EQ(parse_config("metadata = \"" + std::string(store) + "\"", config).code(),
              Code::kInvalidArgument)
        << store;
  }
}

TEST(Config, ListensBeyondLoopbackOnlyIfToldToBeInsecure) {
  Config config;
  ASSERT_TRUE(parse_config("nbd-listen = \"0.0.0.0:10809\"", config).is_ok());
  EXPECT_EQ(finish_config(config).code(), Code::kInvalidArgument);
  config.insecure = true;
  EXPECT_TRUE(finish_config(config).is_ok());
  EXPECT_EQ(config.metadata, "rocksdb:/var/lib/cvol/meta");
  EXPECT_FALSE(config.node_name.empty());
}

}  // namespace
}  // namespace cvol::daemon
