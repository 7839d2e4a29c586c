// Names what is in images: classify IMAGE...
#include <cstdio>
#include <exception>

#include "classes.h"
#include "model.h"
#include "program.h"

int main(int argc, char** argv) try {
  const edge::Options options = edge::read_options(argc, argv, {"--top", 5, 1, model::kClasses});
  std::FILE* results = edge::take_stdout();
  const edge::Net net(options.bundle + "/" + model::kProgram);
  const auto labels = edge::read_labels(options.bundle + "/" + model::kLabels, model::kClasses);
  const bool known = model::kScores != edge::Scores::kUnknown;
  const auto most = static_cast<std::size_t>(options.number.value);

  const auto answer = [&](const edge::Image&, const edge::Run& run) {
    const char* separator = "\"labels\": [";
    for (const auto& [index, value] :
         edge::best_classes(run.output(model::kScoresOutput), model::kScores, most)) {
      const std::string& label = labels.at(index);
      if (options.json) {
        std::fprintf(results, "%s{\"label\": %s, \"%s\": %.9g}", separator, edge::quoted(label).c_str(),
                     known ? "probability" : "score", value);
        separator = ", ";
      } else if (known) {
        std::fprintf(results, "  %6.2f %%  %s\n", 100 * value, label.c_str());
      } else {
        std::fprintf(results, "  %8.4f  %s\n", value, label.c_str());
      }
    }
    if (options.json) std::fprintf(results, "]");
  };
  return edge::for_each_image(net, model::kPreprocess, options, results, answer) ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
