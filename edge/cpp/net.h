// A program on the BPU.
//
//   edge::Net net("MODEL.bin");
//   edge::Run run(net);
//   edge::to_nv12(cv::imread("IMAGE.jpg"), model::kPreprocess, run.nv12());
//   run.start();   // returns at once; the BPU computes
//   run.wait();
//   std::vector<float> scores = run.output(0);
//
// Two runs of one net keep the BPU busy: prepare one while the other computes. A run belongs to one thread at
// a time. Everything throws edge::Error.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "libdnn.h"

namespace edge {

class Error : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Net {
 public:
  explicit Net(const std::string& program);

  std::array<int, 2> input() const;  // height and width of the NV12 image
  std::size_t outputs() const { return outputs_.size(); }
  std::vector<int> shape(std::size_t output) const;

 private:
  friend class Run;

  struct Release {
    void operator()(void* packed) const { hbDNNRelease(packed); }
  };

  std::unique_ptr<void, Release> packed_;
  hbDNNHandle_t model_ = nullptr;
  hbDNNTensorProperties input_{};
  std::vector<hbDNNTensorProperties> outputs_;
};

// Memory for one image and for the answers to it, shared with the BPU.
class Run {
 public:
  explicit Run(const Net& net);
  ~Run();
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  std::uint8_t* nv12() { return static_cast<std::uint8_t*>(input_.sysMem[0].virAddr); }
  void start();
  void wait();

  // The values of an output after wait(), without padding: floats as they are, integers dequantized.
  std::vector<float> output(std::size_t index) const;

 private:
  void free();

  const Net& net_;
  hbDNNTensor input_{};
  std::vector<hbDNNTensor> outputs_;
  hbDNNTaskHandle_t task_ = nullptr;
};

}  // namespace edge
