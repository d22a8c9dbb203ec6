// Binary PPM (P6, 8 bits): the simplest file that holds an RGB picture, so that the examples need no picture library.
#pragma once

#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Picture {
    std::size_t height = 0, width = 0;
    std::vector<std::uint8_t> rgb;  // height × width × 3
};

inline Picture read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string magic;
    Picture picture;
    int largest = 0;
    file >> magic >> picture.width >> picture.height >> largest;
    file.get();  // the one blank before the pixels
    if (!file || magic != "P6" || largest != 255 || picture.width == 0 || picture.height == 0 ||
        picture.width > 65536 || picture.height > 65536)
        throw std::runtime_error(path + ": expected a binary 8-bit PPM (P6)");
    picture.rgb.resize(picture.height * picture.width * 3);
    file.read(reinterpret_cast<char*>(picture.rgb.data()), static_cast<std::streamsize>(picture.rgb.size()));
    if (!file) throw std::runtime_error(path + ": it ends before its last pixel");
    return picture;
}

inline void write_ppm(const std::string& path, const Picture& picture) {
    std::ofstream file(path, std::ios::binary);
    file << "P6\n" << picture.width << ' ' << picture.height << "\n255\n";
    file.write(reinterpret_cast<const char*>(picture.rgb.data()), static_cast<std::streamsize>(picture.rgb.size()));
    if (!file.flush()) throw std::runtime_error(path + ": cannot be written");
}
