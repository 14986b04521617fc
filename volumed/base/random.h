// Seeded random numbers (xoshiro256**, Blackman and Vigna 2018). One generator per reactor; real
// processes seed it from the kernel, the simulator from its seed.
#pragma once

#include <cstdint>

namespace cvol {

class Random {
 public:
  explicit Random(uint64_t seed);
  // A generator seeded by getrandom(2).
  static Random from_system();

  uint64_t next();
  // Uniform in [0, bound); bound > 0.
  uint64_t below(uint64_t bound);
  // True with probability numerator / denominator.
  bool chance(uint64_t numerator, uint64_t denominator) { return below(denominator) < numerator; }

 private:
  uint64_t state_[4];
};

}  // namespace cvol
