// Finds objects in images: detect IMAGE...
#include <cstdio>
#include <exception>

#include "boxes.h"
#include "model.h"
#include "program.h"

int main(int argc, char** argv) try {
  const edge::Options options = edge::read_options(argc, argv, {"--score", 0.25, 0, 1});
  std::FILE* results = edge::take_stdout();
  const edge::Net net(options.bundle + "/" + model::kProgram);
  const auto labels = edge::read_labels(options.bundle + "/" + model::kLabels, model::kDetector.classes);
  const auto score = static_cast<float>(options.number.value);

  const auto answer = [&](const edge::Image& image, const edge::Run& run) {
    const auto found = edge::boxes(net, run, model::kDetector, model::kPreprocess.crop, score);
    const char* separator = "";
    if (options.json) std::fprintf(results, "\"boxes\": [");
    for (const edge::Box& box : found) {
      const char* label = labels.at(static_cast<std::size_t>(box.label)).c_str();
      const auto [left, top, right, bottom] =
          image.size ? edge::to_image(box.sides, *image.size, model::kPreprocess) : box.sides;
      if (options.json) {
        std::fprintf(results, "%s{\"label\": %s, \"score\": %.9g, \"box\": [%.1f, %.1f, %.1f, %.1f]}",
                     separator, edge::quoted(label).c_str(), box.score, left, top, right, bottom);
        separator = ", ";
      } else {
        std::fprintf(results, "  %.2f  %s  %.0f,%.0f to %.0f,%.0f\n", box.score, label, left, top, right,
                     bottom);
      }
    }
    if (options.json) std::fprintf(results, "]");
    if (!options.json && found.empty()) std::fprintf(results, "  nothing above a score of %g\n", score);
  };
  return edge::for_each_image(net, model::kPreprocess, options, results, answer) ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
