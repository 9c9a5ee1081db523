// llama.cpp's logits of all positions: `llama_logits MODEL OUT < IDS` writes them as f32, row by row. For `gguf_files.py`. To build it:
//   g++ -O1 -I$LLAMA_CPP/include -I$LLAMA_CPP/ggml/include llama_logits.cpp -o llama_logits $BUILD/src/libllama.a \
//     $BUILD/ggml/src/libggml.a $BUILD/ggml/src/libggml-cpu.a $BUILD/ggml/src/libggml-base.a -lpthread -ldl -lgomp
#include <cstdio>
#include <vector>

#include "llama.h"

int main(int argc, char ** argv) {
    if (argc != 3) return 2;
    auto quiet = [](ggml_log_level level, const char * text, void *) {
        if (level >= GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
    };
    llama_log_set(quiet, nullptr);
    std::vector<llama_token> ids;
    for (int id; scanf("%d", &id) == 1;) ids.push_back(id);

    auto how = llama_model_default_params();
    how.use_extra_bufts = false;  // weights as they lie
    llama_model * model = llama_model_load_from_file(argv[1], how);
    if (!model) return 1;
    auto settings = llama_context_default_params();
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 512;
    settings.n_threads = settings.n_threads_batch = 1;
    settings.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    settings.type_k = settings.type_v = GGML_TYPE_F32;
    llama_context * context = llama_init_from_model(model, settings);
    if (!context) return 1;

    llama_batch batch = llama_batch_init(ids.size(), 0, 1);
    batch.n_tokens = ids.size();
    for (size_t i = 0; i < ids.size(); i++) {
        batch.token[i] = ids[i];
        batch.pos[i] = i;
        batch.n_seq_id[i] = batch.logits[i] = 1;
        batch.seq_id[i][0] = 0;
    }
    if (llama_decode(context, batch)) return 1;
    const int rows = llama_vocab_n_tokens(llama_model_get_vocab(model));
    FILE * out = fopen(argv[2], "wb");
    for (size_t i = 0; i < ids.size(); i++) fwrite(llama_get_logits_ith(context, i), sizeof(float), rows, out);
    return fclose(out);
}
