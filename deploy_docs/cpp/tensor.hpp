// The contract of a bundle's RGB graph (python -m runtime info BUNDLE): N×3×H×W float32, 0 to 1, in and out, the output not clipped.
#pragma once

#include <algorithm>
#include <cmath>

#include "ppm.hpp"

// H×W×3 bytes -> 3×H×W floats.
inline void to_network(const Picture& picture, float* planes) {
    const std::size_t pixels = picture.height * picture.width;
    for (std::size_t pixel = 0; pixel < pixels; ++pixel)
        for (std::size_t channel = 0; channel < 3; ++channel)
            planes[channel * pixels + pixel] = static_cast<float>(picture.rgb[pixel * 3 + channel]) / 255.0f;
}

// 3×H×W floats -> H×W×3 bytes, clipped and rounded to the nearest, ties to even.
inline Picture from_network(const float* planes, std::size_t height, std::size_t width) {
    Picture picture{height, width, std::vector<std::uint8_t>(height * width * 3)};
    const std::size_t pixels = height * width;
    for (std::size_t pixel = 0; pixel < pixels; ++pixel)
        for (std::size_t channel = 0; channel < 3; ++channel) {
            const float value = std::min(std::max(planes[channel * pixels + pixel], 0.0f), 1.0f) * 255.0f;
            picture.rgb[pixel * 3 + channel] = static_cast<std::uint8_t>(std::nearbyint(value));
        }
    return picture;
}
