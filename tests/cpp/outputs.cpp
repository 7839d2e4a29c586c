// Writes all outputs of a program for images to stdout, as floats: outputs IMAGE...
#include <cstdio>
#include <exception>

#include "model.h"
#include "program.h"

int main(int argc, char** argv) try {
  const edge::Options options = edge::read_options(argc, argv, {"--number", 0, 0, 0});
  std::FILE* results = edge::take_stdout();
  const edge::Net net(options.bundle + "/" + model::kProgram);
  edge::Run run(net);
  for (const std::string& image : options.images) {
    edge::read_image(image, model::kPreprocess, run.nv12());
    run.start();
    run.wait();
    for (std::size_t i = 0; i < net.outputs(); ++i) {
      const std::vector<float> values = run.output(i);
      std::fwrite(values.data(), sizeof(float), values.size(), results);
    }
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
