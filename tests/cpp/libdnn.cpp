// A libdnn for tests: a process at the other end of a Unix socket ($DNN_SOCKET) executes the program.
//
// The other end tells first what the program is: height and width of its input, number of outputs, and of
// each output type, rank, 8 sides, 8 strides, bytes, axis of the channels, number of scales, of zero points,
// then these. Afterwards it answers the bytes of each input with those of all outputs. $DNN_FAIL names a call
// that fails.
#include "libdnn.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <future>
#include <mutex>
#include <vector>

namespace {

struct Program {
  int socket;
  hbDNNTensorProperties input;
  std::vector<hbDNNTensorProperties> outputs;
  std::deque<std::vector<float>> scales;
  std::deque<std::vector<std::int8_t>> zeros;
};

std::mutex bpu;  // it computes one image at a time
std::atomic<int> buffers, tasks, most_tasks;

bool fails(const char* call) {
  const char* name = std::getenv("DNN_FAIL");
  return name != nullptr && std::strcmp(name, call) == 0;
}

void transfer(ssize_t (*move)(int, void*, std::size_t), int socket, void* data, std::size_t bytes) {
  auto* at = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t moved = move(socket, at, bytes);
    if (moved <= 0) std::abort();
    at += moved;
    bytes -= static_cast<std::size_t>(moved);
  }
}

void receive(int socket, void* data, std::size_t bytes) { transfer(read, socket, data, bytes); }

void send_all(int socket, const void* data, std::size_t bytes) {
  transfer([](int to, void* from, std::size_t count) { return write(to, from, count); }, socket,
           const_cast<void*>(data), bytes);
}

std::int32_t number(int socket) {
  std::int32_t value;
  receive(socket, &value, sizeof value);
  return value;
}

}  // namespace

extern "C" {

std::int32_t hbDNNInitializeFromFiles(hbPackedDNNHandle_t* packed, const char** files, std::int32_t) {
  std::printf("[BPU_PLAT]BPU Platform Version(1.3.6)!\n");
  if (access(files[0], R_OK) != 0) return -6000006;
  if (fails("load")) return -6000014;
  auto* program = new Program{socket(AF_UNIX, SOCK_STREAM, 0), {}, {}, {}, {}};
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, std::getenv("DNN_SOCKET"), sizeof address.sun_path - 1);
  if (connect(program->socket, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) std::abort();
  const auto next = [program] { return number(program->socket); };
  program->input.tensorType = HB_DNN_IMG_TYPE_NV12;
  const std::int32_t height = next();
  const std::int32_t width = next();
  const std::int32_t aligned = height + 16;  // as of images with rows for padding
  program->input.validShape = {{1, 3, height, width}, 4};
  program->input.alignedShape = {{1, 3, aligned, width}, 4};
  program->input.alignedByteSize = aligned * width * 3 / 2;
  program->outputs.resize(static_cast<std::size_t>(next()));
  for (hbDNNTensorProperties& output : program->outputs) {
    output.tensorType = next();
    output.validShape.numDimensions = next();
    for (std::int32_t& side : output.validShape.dimensionSize) side = next();
    for (std::int32_t& stride : output.stride) stride = next();
    output.alignedByteSize = next();
    output.quantizeAxis = next();
    output.scale.scaleLen = next();
    output.scale.zeroPointLen = next();
    output.quantiType = output.scale.scaleLen > 0 ? SCALE : NONE;
    auto& scales = program->scales.emplace_back(output.scale.scaleLen);
    auto& zeros = program->zeros.emplace_back(output.scale.zeroPointLen);
    receive(program->socket, scales.data(), scales.size() * sizeof(float));
    receive(program->socket, zeros.data(), zeros.size());
    output.scale.scaleData = scales.data();
    output.scale.zeroPointData = zeros.data();
  }
  *packed = program;
  return 0;
}

std::int32_t hbDNNRelease(hbPackedDNNHandle_t packed) {
  std::fprintf(stderr, "[libdnn] at most %d tasks at once; left: %d tasks, %d buffers\n", most_tasks.load(),
               tasks.load(), buffers.load());
  close(static_cast<Program*>(packed)->socket);
  delete static_cast<Program*>(packed);
  return 0;
}

std::int32_t hbDNNGetModelNameList(const char*** names, std::int32_t* count, hbPackedDNNHandle_t) {
  static const char* name = "program";
  *names = &name;
  *count = 1;
  return 0;
}

std::int32_t hbDNNGetModelHandle(hbDNNHandle_t* model, hbPackedDNNHandle_t packed, const char*) {
  *model = packed;
  return 0;
}

std::int32_t hbDNNGetInputCount(std::int32_t* count, hbDNNHandle_t) {
  *count = 1;
  return 0;
}

std::int32_t hbDNNGetOutputCount(std::int32_t* count, hbDNNHandle_t model) {
  *count = static_cast<std::int32_t>(static_cast<Program*>(model)->outputs.size());
  return 0;
}

std::int32_t hbDNNGetInputTensorProperties(hbDNNTensorProperties* about, hbDNNHandle_t model, std::int32_t) {
  *about = static_cast<Program*>(model)->input;
  return 0;
}

std::int32_t hbDNNGetOutputTensorProperties(hbDNNTensorProperties* about, hbDNNHandle_t model,
                                            std::int32_t i) {
  *about = static_cast<Program*>(model)->outputs[static_cast<std::size_t>(i)];
  return 0;
}

std::int32_t hbDNNInfer(hbDNNTaskHandle_t* task, hbDNNTensor** outputs, const hbDNNTensor* input,
                        hbDNNHandle_t model, hbDNNInferCtrlParam*) {
  const std::int32_t* sides = input->properties.alignedShape.dimensionSize;
  const std::int32_t* valid = input->properties.validShape.dimensionSize;
  const bool packed = std::equal(sides, sides + 8, valid);  // the image's rows, as the caller says
  if (fails("infer") || !packed) return -6000001;
  most_tasks = std::max(most_tasks.load(), ++tasks);
  auto* program = static_cast<Program*>(model);
  *task = new std::future<void>(std::async(std::launch::async, [program, outputs = *outputs, input = *input,
                                                                valid] {
    const std::lock_guard<std::mutex> alone(bpu);
    send_all(program->socket, input.sysMem[0].virAddr, static_cast<std::size_t>(valid[2] * valid[3] * 3 / 2));
    for (std::size_t i = 0; i < program->outputs.size(); ++i) {
      receive(program->socket, outputs[i].sysMem[0].virAddr, outputs[i].sysMem[0].memSize);
    }
  }));
  return 0;
}

std::int32_t hbDNNWaitTaskDone(hbDNNTaskHandle_t task, std::int32_t) {
  static_cast<std::future<void>*>(task)->wait();
  return fails("wait") ? -6000008 : 0;
}

std::int32_t hbDNNReleaseTask(hbDNNTaskHandle_t task) {
  delete static_cast<std::future<void>*>(task);
  --tasks;
  return 0;
}

std::int32_t hbSysAllocCachedMem(hbSysMem* memory, std::uint32_t bytes) {
  if (fails("alloc")) return -6000130;
  *memory = {0, std::malloc(bytes), bytes};
  std::memset(memory->virAddr, 0xA5, bytes);
  ++buffers;
  return 0;
}

std::int32_t hbSysFreeMem(hbSysMem* memory) {
  std::free(memory->virAddr);
  --buffers;
  return 0;
}

std::int32_t hbSysFlushMem(hbSysMem*, std::int32_t) { return 0; }

}  // extern "C"
