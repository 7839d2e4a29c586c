// What the programs share: their options, how an image is read, and the loop that keeps the BPU busy.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <opencv2/imgcodecs.hpp>
#include <optional>
#include <string>
#include <vector>

#include "net.h"
#include "preprocess.h"

namespace edge {

// A number that one program takes, such as --top 5.
struct Number {
  std::string option;
  double value;
  double least;
  double most;
};

struct Options {
  Number number;
  std::string bundle = BUNDLE;  // the folder that this code came in
  bool json = false;
  std::vector<std::string> images;
};

// Reads the command line; ends the process where it makes no sense.
inline Options read_options(int argc, char** argv, const Number& number) {
  Options options{number, BUNDLE, false, {}};
  bool good = true;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--json") {
      options.json = true;
    } else if (word == "--bundle" && i + 1 < argc) {
      options.bundle = argv[++i];
    } else if (word == number.option && i + 1 < argc) {
      char* end = nullptr;
      options.number.value = std::strtod(argv[++i], &end);
      good =
          good && *end == '\0' && number.least <= options.number.value && options.number.value <= number.most;
    } else {
      good = good && word.rfind('-', 0) != 0;
      options.images.push_back(word);
    }
  }
  if (!good || options.images.empty()) {
    std::fprintf(stderr,
                 "usage: %s [%s %g] [--json] [--bundle DIR] IMAGE...\n"
                 "IMAGE is an image file, or NAME.nv12: packed full-range NV12 of the program's size.\n",
                 argv[0], number.option.c_str(), number.value);
    std::exit(2);
  }
  return options;
}

// Returns what was stdout: libdnn prints there, so it leads to stderr from now on, and only results go to
// stdout.
inline std::FILE* take_stdout() {
  std::FILE* results = fdopen(dup(STDOUT_FILENO), "w");
  dup2(STDERR_FILENO, STDOUT_FILENO);
  return results;
}

// Returns the class names, or the classes' numbers where the bundle has no names.
inline std::vector<std::string> read_labels(const std::string& path, int classes) {
  std::vector<std::string> labels;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) labels.push_back(line);
  while (labels.size() < static_cast<std::size_t>(classes)) labels.push_back(std::to_string(labels.size()));
  return labels;
}

// Returns text in quotes, as JSON wants it.
inline std::string quoted(const std::string& text) {
  std::string json = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') json += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      char code[8];
      std::snprintf(code, sizeof code, "\\u%04x", c);
      json += code;
    } else {
      json += c;
    }
  }
  return json + "\"";
}

struct Image {
  std::string path;
  std::optional<Size> size;  // none where it is NV12 of the program's size
  std::string error;         // why it can't be read
};

// Reads an image into a program's input.
inline Image read_image(const std::string& path, const Preprocess& pre, std::uint8_t* nv12) {
  const std::string raw = ".nv12";
  if (path.size() > raw.size() && path.compare(path.size() - raw.size(), raw.size(), raw) == 0) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file || static_cast<std::size_t>(file.tellg()) != pre.bytes()) {
      return {path, {}, "is not " + std::to_string(pre.bytes()) + " bytes of NV12"};
    }
    file.seekg(0).read(reinterpret_cast<char*>(nv12), static_cast<std::streamsize>(pre.bytes()));
    return {path, {}, ""};
  }
  const cv::Mat bgr = cv::imread(path, cv::IMREAD_COLOR);
  if (bgr.empty()) return {path, {}, "can't be read as an image"};
  to_nv12(bgr, pre, nv12);
  return {path, Size{bgr.rows, bgr.cols}, ""};
}

// Shows each image to the net, in order, and lets answer(image, run) write what it sees to `results`: lines
// of text, or with --json one member of the image's object. Returns whether all images could be read.
//
// While the BPU computes one image, the CPU answers for the last one and reads the next.
template <typename Answer>
bool for_each_image(const Net& net, const Preprocess& pre, const Options& options, std::FILE* results,
                    Answer answer) {
  const auto [height, width] = net.input();
  if (height != pre.canvas.height || width != pre.canvas.width) throw Error("model.h is of another program");
  Run runs[2]{Run(net), Run(net)};
  Image images[2];
  bool all = true;

  const auto begin = [&](std::size_t i) {
    images[i % 2] = read_image(options.images[i], pre, runs[i % 2].nv12());
    if (images[i % 2].error.empty()) runs[i % 2].start();
  };
  const auto end = [&](std::size_t i) {
    const Image& image = images[i % 2];
    const bool good = image.error.empty();
    all = all && good;
    if (good) runs[i % 2].wait();
    if (options.json) std::fprintf(results, "{\"image\": %s, ", quoted(image.path).c_str());
    if (good) {
      if (!options.json) std::fprintf(results, "%s\n", image.path.c_str());
      answer(image, runs[i % 2]);
    } else if (options.json) {
      std::fprintf(results, "\"error\": %s", quoted(image.error).c_str());
    } else {
      std::fprintf(stderr, "error: %s %s\n", image.path.c_str(), image.error.c_str());
    }
    if (options.json) std::fprintf(results, "}\n");
    std::fflush(results);
  };

  begin(0);
  for (std::size_t i = 1; i < options.images.size(); ++i) {
    begin(i);
    end(i - 1);
  }
  end(options.images.size() - 1);
  return all;
}

}  // namespace edge
