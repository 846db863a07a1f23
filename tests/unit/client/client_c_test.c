/* The C API from C11, as an engine would use it: MODEL_DIR COORDINATORS ROWS_FILE. A program of its
 * own, as it links the shared library alone. Says the line that failed. */
#include <stdio.h>
#include <string.h>

#include "client/engram_client.h"

#define EXPECT(condition)                                                          \
  do {                                                                             \
    if (!(condition)) {                                                            \
      fprintf(stderr, "%s:%d: %s is false (%s)\n", __FILE__, __LINE__, #condition, \
              engram_error_message());                                             \
      return __LINE__;                                                             \
    }                                                                              \
  } while (0)

static int Refusals(const char* model_dir) {
  engram_client* client = NULL;
  engram_options options;
  engram_ticket ticket = 77;
  EXPECT(engram_api_version() == ENGRAM_API_VERSION);
  EXPECT(strcmp(engram_code_name(ENGRAM_NOT_FOUND), "NOT_FOUND") == 0);
  EXPECT(engram_open(NULL, "h:1", NULL, &client) == ENGRAM_INVALID_ARGUMENT);
  EXPECT(strstr(engram_error_message(), "model_dir") != NULL);
  EXPECT(client == NULL);
  memset(&options, 0, sizeof(options));
  EXPECT(engram_open(model_dir, "h:1", &options, &client) == ENGRAM_INVALID_ARGUMENT);
  EXPECT(strstr(engram_error_message(), "struct_size") != NULL);
  engram_options_init(&options, sizeof(options));
  EXPECT(options.io_threads == 1 && options.staging_buffers == 4);
  options.way = "by-pigeon";
  EXPECT(engram_open(model_dir, "h:1", &options, &client) == ENGRAM_INVALID_ARGUMENT);
  EXPECT(strstr(engram_error_message(), "by-pigeon") != NULL);
  engram_options_init(&options, sizeof(options));
  options.certs = "no/such/certs";
  EXPECT(engram_open(model_dir, "h:1", &options, &client) == ENGRAM_IO);
  EXPECT(strstr(engram_error_message(), "no/such/certs/ca.crt") != NULL);
  options.insecure = 1;
  EXPECT(engram_open(model_dir, "h:1", &options, &client) == ENGRAM_INVALID_ARGUMENT);
  EXPECT(strstr(engram_error_message(), "exclude") != NULL);
  EXPECT(strcmp(engram_code_name(ENGRAM_PERMISSION_DENIED), "PERMISSION_DENIED") == 0);
  EXPECT(engram_open("no/such/folder", "h:1", NULL, &client) == ENGRAM_NOT_FOUND);
  EXPECT(engram_prefetch(NULL, NULL, 0, 10, &ticket) == ENGRAM_INVALID_ARGUMENT);
  engram_release(NULL, 1);
  engram_close(NULL);
  return 0;
}

/* Reads one batch of five tokens and writes the first layer's rows to a file. */
static int Reads(const char* model_dir, const char* coordinators, const char* rows_file) {
  static const int32_t tokens[] = {3, 1, 4, 1, 5};
  engram_client* client = NULL;
  engram_options options;
  engram_shape shape;
  engram_stats stats;
  engram_token_run run;
  engram_ticket ticket = 0;
  engram_rows layer;
  uint32_t i;
  int32_t layer_id = -1;
  size_t rows_size;
  FILE* file;

  engram_options_init(&options, sizeof(options));
  options.batch_tokens_max = 64;
  options.tls = "tcp";
  EXPECT(engram_open(model_dir, coordinators, &options, &client) == ENGRAM_OK);
  memset(&shape, 0, sizeof(shape));
  EXPECT(engram_get_shape(client, &shape) == ENGRAM_INVALID_ARGUMENT);
  shape.struct_size = sizeof(shape);
  EXPECT(engram_get_shape(client, &shape) == ENGRAM_OK);
  EXPECT(shape.batch_tokens_max == 64 && shape.row_bytes == 264);
  EXPECT(engram_get_layer_id(client, 1, &layer_id) == ENGRAM_OK && layer_id == 14);
  EXPECT(engram_get_layer_id(client, 9, &layer_id) == ENGRAM_INVALID_ARGUMENT);

  memset(&run, 0, sizeof(run));
  run.tokens = tokens;
  run.token_count = 5;
  EXPECT(engram_prefetch(client, &run, 1, 60000, &ticket) == ENGRAM_OK && ticket != 0);
  for (i = shape.layer_count; i > 0; --i) {
    EXPECT(engram_await(client, ticket, i - 1, &layer) == ENGRAM_OK);
    EXPECT(layer.token_count == 5 && layer.column_count == shape.column_count);
    EXPECT(layer.row_bytes == shape.row_bytes && layer.dead == NULL);
  }
  rows_size = (size_t)5 * layer.column_count * layer.row_bytes;
  file = fopen(rows_file, "wb");
  EXPECT(file != NULL);
  EXPECT(fwrite(layer.rows, 1, rows_size, file) == rows_size);
  EXPECT(fclose(file) == 0);
  EXPECT(engram_await(client, ticket, shape.layer_count, &layer) == ENGRAM_INVALID_ARGUMENT);
  engram_release(client, ticket);
  EXPECT(engram_await(client, ticket, 0, &layer) == ENGRAM_INVALID_ARGUMENT);
  EXPECT(layer.rows == NULL);

  memset(&stats, 0, sizeof(stats));
  stats.struct_size = offsetof(engram_stats, rows_unique); /* an older program's struct */
  stats.rows_unique = 4711;
  EXPECT(engram_get_stats(client, &stats) == ENGRAM_OK);
  EXPECT(stats.batches == 1 && stats.tokens == 5 && stats.rows_unique == 4711);
  engram_close(client);
  return 0;
}

int main(int argc, char** argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: %s MODEL_DIR COORDINATORS ROWS_FILE\n", argv[0]);
    return 2;
  }
  return Refusals(argv[1]) != 0 || Reads(argv[1], argv[2], argv[3]) != 0 ? 1 : 0;
}
