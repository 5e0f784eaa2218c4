/* One variable of each struct and enum of layout.h, so that the compiler describes them all in BTF. Never loaded. */
#include "vmlinux.h"
#include "maps.h"

enum pod_flag probe_pod_flag;
enum traffic probe_traffic;
enum setting probe_setting;
enum verdict_kind probe_verdict_kind;
enum verdict_flag probe_verdict_flag;
enum socket_role probe_socket_role;
enum socket_flag probe_socket_flag;
enum listening_flag probe_listening_flag;
enum syn_flag probe_syn_flag;
enum event_kind probe_event_kind;
enum closed_by probe_closed_by;
enum counter probe_counter;
enum limit probe_limit;
struct event_direct_closed probe_event_direct_closed;
struct event_direct_opened probe_event_direct_opened;
struct event_listening probe_event_listening;
struct guard_pod probe_guard_pod;
