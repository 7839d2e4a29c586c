// Writes the NV12 of images to stdout: nv12 CROP_H CROP_W CANVAS_H CANVAS_W RESIZE LETTERBOX FILL
// INTERPOLATION IMAGE...
#include <cstdio>
#include <cstdlib>
#include <opencv2/imgcodecs.hpp>

#include "preprocess.h"

int main(int argc, char** argv) {
  const auto number = [argv](int i) { return std::atoi(argv[i]); };
  const edge::Preprocess pre{{number(1), number(2)},
                             {number(3), number(4)},
                             number(5),
                             static_cast<edge::Letterbox>(number(6)),
                             number(7),
                             static_cast<edge::Interpolation>(number(8))};
  std::vector<std::uint8_t> nv12(pre.bytes());
  for (int i = 9; i < argc; ++i) {
    edge::to_nv12(cv::imread(argv[i], cv::IMREAD_COLOR), pre, nv12.data());
    std::fwrite(nv12.data(), 1, nv12.size(), stdout);
  }
}
