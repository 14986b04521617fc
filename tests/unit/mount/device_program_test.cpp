#include "volumed/mount/device_program.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "volumed/mount/program.h"

namespace cvol::mount {
namespace {

TEST(DeviceProgram, AnswersSurviveTheirLine) {
  EXPECT_EQ(*decode_answer(encode_answer(std::string("/dev/loop3"))), "/dev/loop3");
  EXPECT_EQ(*decode_answer(encode_answer(std::string())), "");
  for (int code = 1; code <= static_cast<int>(Code::kInternal); ++code) {
    auto back = decode_answer(encode_answer(Status(static_cast<Code>(code), "two\nlines")));
    EXPECT_EQ(back.code(), static_cast<Code>(code));
    EXPECT_EQ(back.message(), "two lines");
  }
}

TEST(DeviceProgram, OtherLinesAreNoAnswers) {
  for (const char* line : {"", "\n", "okay", "no_such_code text", " ok"}) {
    EXPECT_EQ(decode_answer(line).code(), Code::kInternal) << line;
  }
}

TEST(DeviceProgram, OurDescriptorsDoNotReachAProgram) {
  // Without O_CLOEXEC, on purpose; a number that the shell's own pipes do not get.
  int low = open("/dev/null", O_RDONLY);
  int file = fcntl(low, F_DUPFD, 100);
  close(low);
  ASSERT_GE(file, 100);
  auto seen = run_for_answer({"sh", "-c", "ls /proc/$$/fd | tr '\\n' ' '"});
  ASSERT_TRUE(seen.is_ok()) << seen.message();
  EXPECT_EQ(seen->find(" " + std::to_string(file) + " "), std::string::npos) << *seen;
  close(file);
}

TEST(DeviceProgram, AProgramThatIsNotThereOrSaysNothing) {
  EXPECT_EQ(run_for_answer({"/no/such/program"}).code(), Code::kUnsupported);
  EXPECT_EQ(run_for_answer({"sh", "-c", "exit 3"}).code(), Code::kInternal);
}

TEST(DeviceProgram, EarlierStepsAreWaitedFor) {
  std::string folder = testing::TempDir() + "locks-" + std::to_string(getpid());
  std::filesystem::create_directories(folder);
  DeviceProgram program(folder);
  EXPECT_TRUE(program.wait_for_earlier_steps(std::chrono::milliseconds(0)));
  int lock = open((folder + "/v1").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  ASSERT_EQ(flock(lock, LOCK_EX), 0);
  EXPECT_FALSE(program.wait_for_earlier_steps(std::chrono::milliseconds(30)));
  close(lock);
  EXPECT_TRUE(program.wait_for_earlier_steps(std::chrono::milliseconds(0)));
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace cvol::mount
