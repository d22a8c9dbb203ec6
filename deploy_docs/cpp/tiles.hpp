// The tiles of a picture: what of it a graph is given at a time, so that all of them together give what the whole picture would.
//
// A network that looks `halo` pixels to each side gives an output pixel from the input pixels within `halo` of it. So a tile that
// keeps [a, b) reads [a - halo, b + halo), cut to the picture, and what comes of the halo is left out. Windows begin at multiples of a
// step: the graph's strides and shuffles then meet the pixels that they meet in the whole picture.
#pragma once

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "ppm.hpp"

// What the bundle's manifest.json says: halo, scale, alignment, and the contract's multiple_of and least_side. Not for networks whose
// halo is "global", whose scale is a fraction, or that were exported --static.
struct Tiling {
    std::size_t tile = 0;  // pixels per side that a tile keeps; 0: the picture whole
    std::size_t halo = 0, scale = 1, alignment = 1, multiple_of = 1, least_side = 1;
};

struct Span {
    std::size_t start, stop;
    std::size_t length() const { return stop - start; }
};

struct Cut {
    Span read, kept;
};

inline std::size_t round_up(std::size_t length, std::size_t multiple) { return (length + multiple - 1) / multiple * multiple; }

// An axis of `length` pixels, filled up to what the graph takes, in pieces of at most `tile` pixels.
inline std::vector<Cut> cut_axis(std::size_t length, const Tiling& tiling) {
    constexpr std::size_t grid = 16;  // runtime/tiles/tiling.py
    const std::size_t filled = round_up(std::max(length, tiling.least_side), tiling.multiple_of);
    if (tiling.tile == 0 || tiling.tile >= length) return {{{0, filled}, {0, length}}};
    const std::size_t step = std::lcm(grid, std::lcm(tiling.alignment, tiling.multiple_of));
    const std::size_t smallest = std::max(tiling.least_side, std::min(grid, filled));
    std::vector<Cut> cuts;
    for (std::size_t start = 0; start < length; start += tiling.tile) {
        const std::size_t stop = std::min(start + tiling.tile, length);
        std::size_t first = (start > tiling.halo ? start - tiling.halo : 0) / step * step;
        const std::size_t last = std::min(round_up(std::max(stop + tiling.halo, first + smallest), step), filled);
        if (last - first < smallest) first = (last - smallest) / step * step;
        cuts.push_back({{first, last}, {start, stop}});
    }
    return cuts;
}

// Which of `length` pixels stands at `place`: beyond the end the picture mirrored, or its last pixel where it is too short for that.
inline std::size_t source(std::size_t place, std::size_t length, std::size_t filled) {
    const std::size_t last = length - 1;
    if (place <= last) return place;
    return filled - length <= last ? 2 * last - place : last;
}

inline Picture read_window(const Picture& picture, const Span& rows, const Span& columns, const Tiling& tiling) {
    const std::size_t tall = round_up(std::max(picture.height, tiling.least_side), tiling.multiple_of);
    const std::size_t wide = round_up(std::max(picture.width, tiling.least_side), tiling.multiple_of);
    Picture window{rows.length(), columns.length(), {}};
    window.rgb.reserve(window.height * window.width * 3);
    for (std::size_t y = rows.start; y < rows.stop; ++y)
        for (std::size_t x = columns.start; x < columns.stop; ++x) {
            const auto* pixel =
                &picture.rgb[(source(y, picture.height, tall) * picture.width + source(x, picture.width, wide)) * 3];
            window.rgb.insert(window.rgb.end(), pixel, pixel + 3);
        }
    return window;
}

// The upscaled picture; `run` gives the graph's output for one window. Peak memory: both pictures and one tile.
template <typename Run>
Picture upscale_in_tiles(const Picture& picture, const Tiling& tiling, Run run) {
    const std::size_t scale = tiling.scale, width = picture.width * scale;
    Picture result{picture.height * scale, width, std::vector<std::uint8_t>(picture.height * scale * width * 3)};
    for (const Cut& row : cut_axis(picture.height, tiling))
        for (const Cut& column : cut_axis(picture.width, tiling)) {
            Picture window = read_window(picture, row.read, column.read, tiling);
            const Picture output = run(window);
            if (output.height != window.height * scale || output.width != window.width * scale)
                throw std::runtime_error("the graph enlarges by another factor than " + std::to_string(scale));
            for (std::size_t y = row.kept.start * scale; y < row.kept.stop * scale; ++y) {
                const std::size_t from = (y - row.read.start * scale) * output.width + (column.kept.start - column.read.start) * scale;
                std::copy_n(&output.rgb[from * 3], column.kept.length() * scale * 3,
                            &result.rgb[(y * width + column.kept.start * scale) * 3]);
            }
        }
    return result;
}

// The numbers behind the three files on a command line: SCALE [TILE HALO [ALIGNMENT MULTIPLE_OF LEAST_SIDE]].
inline Tiling parse_tiling(int count, char** words) {
    Tiling tiling;
    std::size_t* const fields[] = {&tiling.scale,     &tiling.tile,        &tiling.halo,
                                   &tiling.alignment, &tiling.multiple_of, &tiling.least_side};
    if (count < 1 || count > 6) throw std::runtime_error("expected SCALE [TILE HALO [ALIGNMENT MULTIPLE_OF LEAST_SIDE]]");
    for (int index = 0; index < count; ++index) {
        const std::string word = words[index];
        if (word.empty() || word.size() > 6 || word.find_first_not_of("0123456789") != std::string::npos)
            throw std::runtime_error("'" + word + "': expected a whole number");
        *fields[index] = std::stoul(word);
    }
    if (tiling.scale == 0 || tiling.alignment == 0 || tiling.multiple_of == 0)
        throw std::runtime_error("scale, alignment and multiple_of: expected 1 or more");
    return tiling;
}
