#include "net.h"

#include <array>
#include <cstring>

namespace edge {
namespace {

constexpr std::int32_t kTimeout = 10'000;  // milliseconds

const char* meaning(std::int32_t code) {
  switch (code) {
    case -6000002:
      return ": it is not a program";
    case -6000006:
      return ": the file can't be opened";
    case -6000007:
    case -6000130:
      return ": out of memory";
    case -6000008:
      return ": timed out";
    case -6000014:
      return ": compiled for another chip, or by a newer compiler than this board's libdnn knows";
    case -6000016:
      return ": another process uses the BPU exclusively";
    default:
      return "";
  }
}

void check(std::int32_t code, const std::string& what) {
  if (code != 0) throw Error(what + " failed with " + std::to_string(code) + meaning(code));
}

std::string text(const hbDNNTensorShape& shape) {
  std::string sides;
  for (int axis = 0; axis < shape.numDimensions; ++axis) {
    sides += (axis > 0 ? "x" : "") + std::to_string(shape.dimensionSize[axis]);
  }
  return sides;
}

int element_bytes(std::int32_t type) {
  switch (type) {
    case HB_DNN_TENSOR_TYPE_S8:
    case HB_DNN_TENSOR_TYPE_U8:
      return 1;
    case HB_DNN_TENSOR_TYPE_S16:
    case HB_DNN_TENSOR_TYPE_U16:
      return 2;
    case HB_DNN_TENSOR_TYPE_F32:
    case HB_DNN_TENSOR_TYPE_S32:
    case HB_DNN_TENSOR_TYPE_U32:
      return 4;
    default:
      throw Error("an output is of type " + std::to_string(type) +
                  ", expected: float32 or 8 to 32 bit integers");
  }
}

template <typename T>
T read(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

std::int64_t read_integer(const char* at, std::int32_t type) {
  switch (type) {
    case HB_DNN_TENSOR_TYPE_S8:
      return read<std::int8_t>(at);
    case HB_DNN_TENSOR_TYPE_U8:
      return read<std::uint8_t>(at);
    case HB_DNN_TENSOR_TYPE_S16:
      return read<std::int16_t>(at);
    case HB_DNN_TENSOR_TYPE_U16:
      return read<std::uint16_t>(at);
    case HB_DNN_TENSOR_TYPE_S32:
      return read<std::int32_t>(at);
    default:
      return read<std::uint32_t>(at);
  }
}

// Returns (integer - zero point) * scale; channel is where one of many scales stands.
float dequantized(std::int64_t integer, const hbDNNQuantiScale& by, int channel) {
  if (by.zeroPointLen > 0) integer -= by.zeroPointData[by.zeroPointLen > 1 ? channel : 0];
  return static_cast<float>(integer) * by.scaleData[by.scaleLen > 1 ? channel : 0];
}

// Returns the axis whose places have scales of their own; any where all share one.
int channel_axis(const hbDNNTensorProperties& about) {
  return about.scale.scaleLen > 1 || about.scale.zeroPointLen > 1 ? about.quantizeAxis : 0;
}

std::size_t elements(const hbDNNTensorShape& shape) {
  std::size_t count = 1;
  for (int axis = 0; axis < shape.numDimensions; ++axis) {
    count *= static_cast<std::size_t>(shape.dimensionSize[axis]);
  }
  return count;
}

bool packed_floats(const hbDNNTensorProperties& about) {
  std::int64_t bytes = sizeof(float);
  for (int axis = about.validShape.numDimensions - 1; axis >= 0; --axis) {
    const int side = about.validShape.dimensionSize[axis];
    if (side > 1 && about.stride[axis] != bytes) return false;
    bytes *= side;
  }
  return about.tensorType == HB_DNN_TENSOR_TYPE_F32;
}

// Refuses what Run::output() would misread.
void check_output(const hbDNNTensorProperties& about) {
  const hbDNNTensorShape& shape = about.validShape;
  std::int64_t last = element_bytes(about.tensorType);
  for (int axis = 0; axis < shape.numDimensions; ++axis) {
    if (shape.dimensionSize[axis] > 1 && about.stride[axis] <= 0) {
      throw Error("an output of " + text(shape) + " has no strides: update RDK OS");
    }
    last += std::int64_t{shape.dimensionSize[axis] - 1} * about.stride[axis];
  }
  if (last > about.alignedByteSize) {
    throw Error("an output of " + text(shape) + " does not fit into its memory");
  }
  if (about.tensorType == HB_DNN_TENSOR_TYPE_F32 || about.quantiType == NONE) return;
  const int scales = about.scale.scaleLen;
  const int zeros = about.scale.zeroPointLen;
  const int axis = about.quantizeAxis;
  const int channels = axis >= 0 && axis < shape.numDimensions ? shape.dimensionSize[axis] : -1;
  const auto fits = [channels](int count) { return count == 1 || count == channels; };
  if (about.quantiType != SCALE || !fits(scales) || (zeros != 0 && !fits(zeros))) {
    throw Error("an output of " + text(shape) + " has " + std::to_string(scales) +
                " scales, expected: one, or one per channel");
  }
}

void allocate(hbSysMem& memory, const hbDNNTensorProperties& about) {
  check(hbSysAllocCachedMem(&memory, static_cast<std::uint32_t>(about.alignedByteSize)),
        "hbSysAllocCachedMem");
}

}  // namespace

Net::Net(const std::string& program) {
  const char* file = program.c_str();
  hbPackedDNNHandle_t packed = nullptr;
  check(hbDNNInitializeFromFiles(&packed, &file, 1), "loading " + program);
  packed_.reset(packed);
  const char** names = nullptr;
  std::int32_t count = 0;
  check(hbDNNGetModelNameList(&names, &count, packed), "hbDNNGetModelNameList");
  if (count < 1) throw Error(program + " holds no model");
  check(hbDNNGetModelHandle(&model_, packed, names[0]), "hbDNNGetModelHandle");

  check(hbDNNGetInputCount(&count, model_), "hbDNNGetInputCount");
  if (count != 1) throw Error(program + " takes " + std::to_string(count) + " inputs, expected: one image");
  check(hbDNNGetInputTensorProperties(&input_, model_, 0), "hbDNNGetInputTensorProperties");
  const auto [height, width] = input();
  if (input_.tensorType != HB_DNN_IMG_TYPE_NV12 || height * width * 3 / 2 > input_.alignedByteSize) {
    throw Error(program + " takes no NV12 image");
  }
  input_.alignedShape = input_.validShape;  // says that the image's rows lie without padding

  check(hbDNNGetOutputCount(&count, model_), "hbDNNGetOutputCount");
  outputs_.resize(static_cast<std::size_t>(count));
  for (std::int32_t i = 0; i < count; ++i) {
    hbDNNTensorProperties& output = outputs_[static_cast<std::size_t>(i)];
    check(hbDNNGetOutputTensorProperties(&output, model_, i), "hbDNNGetOutputTensorProperties");
    check_output(output);
  }
}

std::array<int, 2> Net::input() const {
  const std::int32_t* sides = input_.validShape.dimensionSize;
  if (sides[3] == 3) return {sides[1], sides[2]};  // NHWC
  return {sides[2], sides[3]};
}

std::vector<int> Net::shape(std::size_t output) const {
  const hbDNNTensorShape& shape = outputs_.at(output).validShape;
  return {shape.dimensionSize, shape.dimensionSize + shape.numDimensions};
}

Run::Run(const Net& net) : net_(net), outputs_(net.outputs_.size()) {
  try {
    input_.properties = net.input_;
    allocate(input_.sysMem[0], net.input_);
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      outputs_[i].properties = net.outputs_[i];
      allocate(outputs_[i].sysMem[0], net.outputs_[i]);
    }
  } catch (...) {
    free();
    throw;
  }
}

Run::~Run() {
  if (task_ != nullptr) {
    hbDNNWaitTaskDone(task_, kTimeout);  // it writes into the memory that is about to go
    hbDNNReleaseTask(task_);
  }
  free();
}

void Run::free() {
  for (hbDNNTensor& output : outputs_) {
    if (output.sysMem[0].virAddr != nullptr) hbSysFreeMem(&output.sysMem[0]);
  }
  if (input_.sysMem[0].virAddr != nullptr) hbSysFreeMem(&input_.sysMem[0]);
}

void Run::start() {
  check(hbSysFlushMem(&input_.sysMem[0], HB_SYS_MEM_CACHE_CLEAN), "hbSysFlushMem");
  hbDNNTensor* outputs = outputs_.data();
  hbDNNInferCtrlParam control{};  // any core, lowest priority
  check(hbDNNInfer(&task_, &outputs, &input_, net_.model_, &control), "hbDNNInfer");
}

void Run::wait() {
  const std::int32_t code = hbDNNWaitTaskDone(task_, kTimeout);
  hbDNNReleaseTask(task_);
  task_ = nullptr;
  check(code, "running the program");
  for (hbDNNTensor& output : outputs_) {
    check(hbSysFlushMem(&output.sysMem[0], HB_SYS_MEM_CACHE_INVALIDATE), "hbSysFlushMem");
  }
}

std::vector<float> Run::output(std::size_t index) const {
  const hbDNNTensor& tensor = outputs_.at(index);
  const hbDNNTensorProperties& about = tensor.properties;
  const int* sides = about.validShape.dimensionSize;
  const int last = about.validShape.numDimensions - 1;
  const bool scaled = about.quantiType == SCALE && about.tensorType != HB_DNN_TENSOR_TYPE_F32;

  std::vector<float> values(elements(about.validShape));
  if (packed_floats(about)) {  // of a program that ends on the CPU, as edge's do
    std::memcpy(values.data(), tensor.sysMem[0].virAddr, values.size() * sizeof(float));
    return values;
  }
  std::array<int, 8> place{};  // of the next element, per axis
  for (float& value : values) {
    const auto* at = static_cast<const char*>(tensor.sysMem[0].virAddr);
    for (int axis = 0; axis <= last; ++axis) at += std::ptrdiff_t{place[axis]} * about.stride[axis];
    if (about.tensorType == HB_DNN_TENSOR_TYPE_F32) {
      value = read<float>(at);
    } else {
      const std::int64_t integer = read_integer(at, about.tensorType);
      value = scaled ? dequantized(integer, about.scale, place[channel_axis(about)])
                     : static_cast<float>(integer);
    }
    for (int axis = last; axis >= 0 && ++place[axis] == sides[axis]; --axis) place[axis] = 0;
  }
  return values;
}

}  // namespace edge
