/* The Engram row client for C, and for whatever speaks C.
 *
 * A stable interface: functions and struct fields are only added, at the end; ids are integers;
 * nothing is thrown. Every function that can fail gives an engram_code; the message that goes with
 * it is the calling thread's until its next call (engram_error_message).
 * A client may be used by many threads; one thread awaits and releases a ticket.
 */
#ifndef ENGRAM_CLIENT_H
#define ENGRAM_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define ENGRAM_API __attribute__((visibility("default")))
#else
#define ENGRAM_API
#endif

#define ENGRAM_API_VERSION 1

/* What went wrong, and what to do: engram/base/status.h. */
typedef enum engram_code {
  ENGRAM_OK = 0,
  ENGRAM_INVALID_ARGUMENT = 1,
  ENGRAM_NOT_FOUND = 2,
  ENGRAM_ALREADY_EXISTS = 3,
  ENGRAM_FAILED_PRECONDITION = 4,
  ENGRAM_RESOURCE_EXHAUSTED = 5,
  ENGRAM_UNAVAILABLE = 6,
  ENGRAM_DEADLINE_EXCEEDED = 7,
  ENGRAM_NOT_OWNED = 8,
  ENGRAM_WRONG_MODEL = 9,
  ENGRAM_WRONG_VERSION = 10,
  ENGRAM_WRONG_INCARNATION = 11,
  ENGRAM_CORRUPT = 12,
  ENGRAM_PEER_LOST = 13,
  ENGRAM_MALFORMED = 14,
  ENGRAM_IO = 15,
  ENGRAM_CANCELLED = 16,
  ENGRAM_INTERNAL = 17,
  ENGRAM_PERMISSION_DENIED = 18 /* the certificate does not allow this: use another */
} engram_code;

typedef struct engram_client engram_client;
typedef uint64_t engram_ticket; /* 0 = none */

/* Set struct_size to sizeof(engram_options) by engram_options_init: fields that a newer header adds
 * keep their defaults in an older program. */
typedef struct engram_options {
  size_t struct_size;
  uint64_t version;          /* table version; 0 = the current one */
  uint64_t cache_bytes;      /* of hot rows; 0 = none */
  uint32_t io_threads;       /* 1 */
  uint32_t batch_tokens_max; /* 1024 */
  uint32_t staging_buffers;  /* 4: tickets at once */
  uint32_t ready_timeout_ms; /* 30000: for tables whose slots are all loaded */
  const char* way;           /* "auto", "gather", "mapped", "one-sided" (by a network card);
                                NULL = "auto" */
  const char* tls;           /* "auto", "tcp", "shm", or a UCX_TLS list; NULL = "auto" */
  const char* zone;          /* of this host: its memory nodes are read first; NULL = none are */
  const char* certs;         /* folder with ca.crt, tls.crt, tls.key: mutual TLS; NULL = without */
  uint32_t insecure;         /* 1 = without certificates beyond loopback too */
  uint32_t spin_us;          /* threads look for rows this long before they sleep; 0 */
} engram_options;

/* A run of consecutive tokens of one sequence and what stood before it. Copied. */
typedef struct engram_token_run {
  const int32_t* history; /* [history_count] token ids before `tokens`, oldest first; may be NULL */
  size_t history_count;
  const int32_t* tokens; /* [token_count] */
  size_t token_count;
  const uint8_t* history_dead; /* [history_count], 1 = dead; NULL = none */
  const uint8_t* tokens_dead;  /* [token_count], 1 = dead; NULL = none */
} engram_token_run;

/* One layer's rows, valid until the ticket is released. */
typedef struct engram_rows {
  const uint8_t* rows; /* [token_count][column_count][row_bytes] */
  const uint8_t* dead; /* [token_count], 1 = its bytes are unspecified; NULL = none */
  uint32_t token_count;
  uint32_t column_count;
  uint32_t row_bytes;
} engram_rows;

typedef struct engram_shape {
  size_t struct_size; /* set by the caller */
  uint32_t layer_count;
  uint32_t column_count;
  uint32_t row_bytes;
  uint32_t row_values;
  uint32_t row_format; /* 1 = E4M3 values and a UE8M0 scale per 32, 2 = bf16, 3 = f16, 4 = f32 */
  uint32_t batch_tokens_max;
} engram_shape;

/* Counters since engram_open. */
typedef struct engram_stats {
  size_t struct_size; /* set by the caller */
  uint64_t batches;
  uint64_t tokens;
  uint64_t rows_asked;
  uint64_t rows_unique;
  uint64_t rows_from_cache;
  uint64_t rows_read;
  uint64_t rows_verified;
  uint64_t rows_wrong;
  uint64_t rows_failed;
  uint64_t reads_retried;
  uint64_t row_path_cpu_ns;
  uint64_t reads_hedged; /* late: asked of another replica too */
  uint64_t hedges_won;   /* of these, the other replica was first */
} engram_stats;

/* ENGRAM_API_VERSION of the library that is loaded. */
ENGRAM_API uint32_t engram_api_version(void);
/* "NOT_FOUND" and so on; never NULL. */
ENGRAM_API const char* engram_code_name(engram_code code);
/* One sentence about the calling thread's last failed call; "" when there was none. */
ENGRAM_API const char* engram_error_message(void);

/* Writes the defaults. */
ENGRAM_API void engram_options_init(engram_options* options, size_t struct_size);

/* Connects. `model_dir` holds config.json and tokenizer.json; `coordinators` is "host:port", or
 * several with commas between. `options` may be NULL. On ENGRAM_OK *client must be closed. */
ENGRAM_API engram_code engram_open(const char* model_dir, const char* coordinators,
                                   const engram_options* options, engram_client** client);
/* Ends the client's threads and connections. No other call may be going on, and pointers from
 * engram_await end here. NULL is ignored. */
ENGRAM_API void engram_close(engram_client* client);

ENGRAM_API engram_code engram_get_shape(const engram_client* client, engram_shape* shape);
/* The model's number of an Engram layer (0 <= layer_index < layer_count). */
ENGRAM_API engram_code engram_get_layer_id(const engram_client* client, uint32_t layer_index,
                                           int32_t* layer_id);

/* Starts reading every layer's rows and returns at once. Every ticket must be released.
 * Rows that are not there `deadline_ms` later are an error of their layer. */
ENGRAM_API engram_code engram_prefetch(engram_client* client, const engram_token_run* runs,
                                       size_t run_count, uint32_t deadline_ms,
                                       engram_ticket* ticket);
/* Waits for one layer's rows. */
ENGRAM_API engram_code engram_await(engram_client* client, engram_ticket ticket,
                                    uint32_t layer_index, engram_rows* rows);
/* The rows are no longer used. */
ENGRAM_API void engram_release(engram_client* client, engram_ticket ticket);

ENGRAM_API engram_code engram_get_stats(const engram_client* client, engram_stats* stats);

#ifdef __cplusplus
}
#endif

#endif /* ENGRAM_CLIENT_H */
