// From an image to what the program takes: packed full-range NV12, byte for byte as edge's Python makes it.
//
//   BGR of any size --resize_crop--> BGR of the program's size --bgr_to_nv12--> NV12
//
// The network was calibrated on images that went this way; any other resizing or colour conversion costs
// accuracy. Resizing is Pillow's, because torchvision and timm train with it: OpenCV's own is up to 3 grey
// levels off. Letterboxed images are resized by OpenCV, because YOLOX and ultralytics train with that.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace edge {

enum class Interpolation { kBilinear, kBicubic, kBox };
enum class Letterbox { kNone, kCorner, kCenter };

struct Size {
  int height;
  int width;
};

struct Preprocess {
  Size crop;            // what the network sees
  Size canvas;          // what the program takes: the crop, its last row and column repeated
  int resize;           // length of the shorter side before the crop; 0: the whole image is stretched
  Letterbox letterbox;  // scaled to fit into the crop: top left corner, or middle
  int fill;             // grey level around a letterboxed image
  Interpolation interpolation;

  constexpr std::size_t bytes() const {
    return static_cast<std::size_t>(canvas.height) * static_cast<std::size_t>(canvas.width) * 3 / 2;
  }
};

// Where an image lies on the crop: the size of the whole image there, and its top left corner.
struct Placement {
  Size size;
  int top;
  int left;
};

namespace detail {

// A product that the compiler can't fuse with a following addition, as it does on ARM: a fused one is rounded
// once where Python rounds twice.
inline double product(double a, double b) {
  const volatile double rounded = a * b;
  return rounded;
}

// Python's and torchvision's round(): halves go to the even neighbour.
inline int round_even(double value) { return static_cast<int>(std::nearbyint(value)); }

inline double triangle(double x) { return std::max(1.0 - std::abs(x), 0.0); }

inline double box(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

// Keys' cubic convolution with a = -0.5.
inline double cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return product(product(product(a + 2.0, x) - (a + 3.0), x), x) + 1.0;
  if (x < 2.0) return product(product(product(x - 5.0, x) + 8.0, x) - 4.0, a);
  return 0.0;
}

// Pillow's weights are integers with so many fractional bits.
constexpr int kFraction = 22;
constexpr std::int32_t kHalf = 1 << (kFraction - 1);

inline std::uint8_t rounded(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::clamp(sum >> kFraction, 0, 255));
}

// The inputs that one output is a weighted sum of.
struct Taps {
  int first;
  std::vector<std::int32_t> weights;

  int last() const { return first + static_cast<int>(weights.size()); }
};

// The weights of outputs start..start+count of a side that is resized from `size` to `resized`. The filter is
// stretched where the image shrinks, which antialiases.
inline std::vector<Taps> filter(int size, int resized, int start, int count, Interpolation interpolation) {
  const bool bicubic = interpolation == Interpolation::kBicubic;
  const bool bilinear = interpolation == Interpolation::kBilinear;
  double (*const kernel)(double) = bicubic ? cubic : bilinear ? triangle : box;
  const double support = bicubic ? 2.0 : bilinear ? 1.0 : 0.5;
  const double scale = static_cast<double>(size) / resized;
  const double stretch = std::max(scale, 1.0);
  const double reach = product(support, stretch);

  std::vector<Taps> filter;
  std::vector<double> shares;
  for (int output = start; output < start + count; ++output) {
    const double center = product(output + 0.5, scale);
    Taps taps{std::max(static_cast<int>(center - reach + 0.5), 0), {}};
    const int last = std::min(static_cast<int>(center + reach + 0.5), size);
    shares.clear();
    double total = 0.0;
    for (int input = taps.first; input < last; ++input) {
      shares.push_back(kernel(product(input - center + 0.5, 1.0 / stretch)));
      total += shares.back();
    }
    for (const double share : shares) {
      const double weight = share / total * (1 << kFraction);
      taps.weights.push_back(static_cast<std::int32_t>(weight + std::copysign(0.5, weight)));
    }
    filter.push_back(std::move(taps));
  }
  return filter;
}

// Each output column is a weighted sum of the columns that the filter names.
inline cv::Mat filter_columns(const cv::Mat& image, const std::vector<Taps>& filter) {
  cv::Mat out(image.rows, static_cast<int>(filter.size()), CV_8UC3);
  std::vector<std::array<std::int32_t, 4>> row(static_cast<std::size_t>(image.cols));  // 4: a vector register
  for (int y = 0; y < image.rows; ++y) {
    const auto* pixel = image.ptr<std::uint8_t>(y);
    for (auto& wide : row) {
      wide = {pixel[0], pixel[1], pixel[2], 0};
      pixel += 3;
    }
    auto* target = out.ptr<std::uint8_t>(y);
    for (const Taps& taps : filter) {
      std::array<std::int32_t, 4> sum{kHalf, kHalf, kHalf, kHalf};
      const auto* from = &row[static_cast<std::size_t>(taps.first)];
      for (const std::int32_t weight : taps.weights) {
        for (std::size_t c = 0; c < 4; ++c) sum[c] += (*from)[c] * weight;
        ++from;
      }
      for (std::size_t c = 0; c < 3; ++c) *target++ = rounded(sum[c]);
    }
  }
  return out;
}

// Each output row is a weighted sum of the rows that the filter names; row 0 of the image is `first` in its
// counting.
inline cv::Mat filter_rows(const cv::Mat& image, int first, const std::vector<Taps>& filter) {
  cv::Mat out(static_cast<int>(filter.size()), image.cols, CV_8UC3);
  std::vector<std::int32_t> sums(static_cast<std::size_t>(image.cols) * 3);
  for (int y = 0; y < out.rows; ++y) {
    const Taps& taps = filter[static_cast<std::size_t>(y)];
    std::fill(sums.begin(), sums.end(), kHalf);
    int from = taps.first - first;
    for (const std::int32_t weight : taps.weights) {
      const auto* row = image.ptr<std::uint8_t>(from++);
      for (std::size_t x = 0; x < sums.size(); ++x) sums[x] += row[x] * weight;
    }
    std::transform(sums.begin(), sums.end(), out.ptr<std::uint8_t>(y), rounded);
  }
  return out;
}

}  // namespace detail

inline Placement placement(Size image, const Preprocess& pre) {
  using detail::round_even;
  const auto [height, width] = image;
  if (pre.letterbox != Letterbox::kNone) {
    const bool corner = pre.letterbox == Letterbox::kCorner;
    const double ratio =
        std::min(static_cast<double>(pre.crop.height) / height, static_cast<double>(pre.crop.width) / width);
    const auto scaled = [&](int side) {
      return std::max(1, corner ? static_cast<int>(side * ratio) : round_even(side * ratio));
    };
    const Size size{scaled(height), scaled(width)};
    if (corner) return {size, 0, 0};
    return {size, round_even((pre.crop.height - size.height) / 2.0 - 0.1),
            round_even((pre.crop.width - size.width) / 2.0 - 0.1)};
  }
  const auto longer = [&](int other, int shorter) {
    return static_cast<int>(static_cast<double>(pre.resize) * other / shorter);
  };
  Size size = pre.crop;
  if (pre.resize > 0) {
    size =
        width <= height ? Size{longer(height, width), pre.resize} : Size{pre.resize, longer(width, height)};
  }
  return {size, -round_even((size.height - pre.crop.height) / 2.0),
          -round_even((size.width - pre.crop.width) / 2.0)};
}

// Returns rows and columns top..top+window.height, left..left+window.width of the resized image.
inline cv::Mat resample(const cv::Mat& image, Size resized, int top, int left, Size window,
                        Interpolation interpolation) {
  const auto down = detail::filter(image.rows, resized.height, top, window.height, interpolation);
  const auto across = detail::filter(image.cols, resized.width, left, window.width, interpolation);
  const int first = down.front().first;
  const int last = down.back().last();
  // Pillow filters along the rows first and rounds to 8 bits in between.
  return detail::filter_rows(detail::filter_columns(image.rowRange(first, last), across), first, down);
}

// Makes an image the size of the program's input: cropped, stretched or letterboxed. The channels may be in
// any order.
inline cv::Mat resize_crop(const cv::Mat& image, const Preprocess& pre) {
  if (image.empty() || image.type() != CV_8UC3) throw std::invalid_argument("expected an image of CV_8UC3");
  const Placement place = placement({image.rows, image.cols}, pre);
  cv::Mat crop;
  if (pre.letterbox == Letterbox::kNone) {
    crop = resample(image, place.size, -place.top, -place.left, pre.crop, pre.interpolation);
  } else {
    cv::Mat scaled;
    if (pre.interpolation == Interpolation::kBilinear) {
      cv::resize(image, scaled, {place.size.width, place.size.height}, 0, 0, cv::INTER_LINEAR_EXACT);
    } else {
      scaled = resample(image, place.size, 0, 0, place.size, pre.interpolation);
    }
    crop = cv::Mat(pre.crop.height, pre.crop.width, CV_8UC3, cv::Scalar::all(pre.fill));
    scaled.copyTo(crop({place.left, place.top, place.size.width, place.size.height}));
  }
  const int below = pre.canvas.height - crop.rows;
  const int right = pre.canvas.width - crop.cols;
  if (below > 0 || right > 0) cv::copyMakeBorder(crop, crop, 0, below, 0, right, cv::BORDER_REPLICATE);
  return crop;
}

namespace detail {

// All products of a coefficient, so that the sums below are of numbers already rounded (see product()).
constexpr std::array<double, 256> products(double coefficient) {
  std::array<double, 256> table{};
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = coefficient * static_cast<double>(i);
  return table;
}

struct Coefficients {
  std::array<double, 256> red, green, blue;
};

constexpr Coefficients kY{products(0.299), products(0.587), products(0.114)};
constexpr Coefficients kU{products(-0.169), products(-0.331), products(0.5)};
constexpr Coefficients kV{products(0.5), products(-0.419), products(-0.081)};

inline std::uint8_t weighted(const Coefficients& by, const std::uint8_t* bgr, double offset) {
  return static_cast<std::uint8_t>(by.red[bgr[2]] + by.green[bgr[1]] + by.blue[bgr[0]] + offset);
}

}  // namespace detail

// Encodes as full-range BT.601 NV12: chroma of the top left pixel of each 2x2 block, everything truncated, as
// the compiler encodes its calibration images. Sides are even; `nv12` has room for rows * cols * 3 / 2 bytes.
inline void bgr_to_nv12(const cv::Mat& bgr, std::uint8_t* nv12) {
  if (bgr.type() != CV_8UC3 || bgr.rows % 2 != 0 || bgr.cols % 2 != 0) {
    throw std::invalid_argument("expected an image of CV_8UC3 with even sides");
  }
  std::uint8_t* luma = nv12;
  std::uint8_t* chroma = nv12 + bgr.total();
  for (int y = 0; y < bgr.rows; ++y) {
    const auto* pixel = bgr.ptr<std::uint8_t>(y);
    for (int x = 0; x < bgr.cols; ++x, pixel += 3) {
      *luma++ = detail::weighted(detail::kY, pixel, 0.0);
      if (y % 2 == 0 && x % 2 == 0) {
        *chroma++ = detail::weighted(detail::kU, pixel, 128.0);
        *chroma++ = detail::weighted(detail::kV, pixel, 128.0);
      }
    }
  }
}

// Writes pre.bytes() bytes of NV12 of a BGR image of any size.
inline void to_nv12(const cv::Mat& bgr, const Preprocess& pre, std::uint8_t* nv12) {
  bgr_to_nv12(resize_crop(bgr, pre), nv12);
}

// Moves a box (left, top, right, bottom) from the program's input to the image that was letterboxed or
// resized.
inline std::array<float, 4> to_image(std::array<float, 4> box, Size image, const Preprocess& pre) {
  const Placement place = placement(image, pre);
  const std::array<int, 2> corner{place.left, place.top};
  const std::array<int, 2> scaled{place.size.width, place.size.height};
  const std::array<int, 2> limit{image.width, image.height};
  for (std::size_t i = 0; i < 4; ++i) {
    const auto most = static_cast<float>(limit[i % 2]);
    const float scale = most / static_cast<float>(scaled[i % 2]);
    box[i] = std::clamp((box[i] - static_cast<float>(corner[i % 2])) * scale, 0.0F, most);
  }
  return box;
}

}  // namespace edge
