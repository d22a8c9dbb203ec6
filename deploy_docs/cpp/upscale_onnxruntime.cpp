// upscale_onnxruntime GRAPH.onnx IN.ppm OUT.ppm: the same on ONNX Runtime, through the C++ header over its C API.
//
// NOT BUILT HERE: the wheel carries no headers. With a release archive of ONNX Runtime unpacked in $ORT:
//   g++ -std=c++17 -O2 -I$ORT/include upscale_onnxruntime.cpp -L$ORT/lib -lonnxruntime -Wl,-rpath,$ORT/lib -o upscale_onnxruntime
#include <array>
#include <cstdint>
#include <exception>
#include <iostream>

#include <onnxruntime_cxx_api.h>

#include "tensor.hpp"

int main(int argc, char** argv) try {
    if (argc != 4) {
        std::cerr << "usage: upscale_onnxruntime GRAPH.onnx IN.ppm OUT.ppm\n";
        return 2;
    }
    const Picture picture = read_ppm(argv[2]);

    Ort::Env environment(ORT_LOGGING_LEVEL_ERROR, "sredge");
    Ort::SessionOptions options;
    Ort::Session session(environment, argv[1], options);  // on Windows the path is a wide string
    Ort::AllocatorWithDefaultOptions allocator;
    const auto input_name = session.GetInputNameAllocated(0, allocator);
    const auto output_name = session.GetOutputNameAllocated(0, allocator);
    const char* input_names[] = {input_name.get()};
    const char* output_names[] = {output_name.get()};

    std::vector<float> planes(3 * picture.height * picture.width);
    to_network(picture, planes.data());
    const std::array<std::int64_t, 4> shape = {1, 3, static_cast<std::int64_t>(picture.height),
                                               static_cast<std::int64_t>(picture.width)};
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const Ort::Value input = Ort::Value::CreateTensor<float>(memory, planes.data(), planes.size(), shape.data(), shape.size());

    auto outputs = session.Run(Ort::RunOptions{nullptr}, input_names, &input, 1, output_names, 1);
    const auto larger = outputs[0].GetTensorTypeAndShapeInfo().GetShape();  // 1, 3, H·scale, W·scale
    write_ppm(argv[3], from_network(outputs[0].GetTensorData<float>(), static_cast<std::size_t>(larger[2]),
                                    static_cast<std::size_t>(larger[3])));
    return 0;
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
}
