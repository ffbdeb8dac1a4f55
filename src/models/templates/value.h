// The values a template computes with: Python's, as far as templates can see them.
//
// Values are immutable except namespaces, loops and generators; lists and dicts cannot be changed because the
// sandbox that transformers uses forbids it. So there are no reference cycles except through a namespace,
// which belongs to the Runtime of one rendering. Objects made while rendering charge their bytes to the
// Runtime's meter; constants of a parsed template charge nobody and may be shared between threads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tidepool::templates {

struct Expression;
struct Statement;
struct Scope;
class Runtime;

// Wide enough for every integer JSON carries. Python's are unbounded; beyond 128 bits is an error here.
using Integer = __int128;

enum class Kind : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInteger,
  kFloat,
  kString,
  kList,
  kTuple,
  kDict,
  kDictView,
  kRange,
  kGenerator,
  kNamespace,
  kMacro,
  kLoop,
  kFunction,
  kMethod,
};

// Bytes of live objects of one rendering.
struct Meter {
  uint64_t used = 0;
  uint64_t limit = 0;
};

// Containers deeper than this are refused: comparing, printing and freeing them recurses.
inline constexpr uint32_t kMaxDataDepth = 400;

struct Object {
  Object() = default;
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  virtual ~Object() {
    if (meter != nullptr) meter->used -= charged;
  }
  Meter* meter = nullptr;
  uint64_t charged = 0;
  uint32_t depth = 0;
};

class Value {
 public:
  Value() : kind_(Kind::kNone), integer_(0) {}
  static Value Bool(bool b) {
    Value v;
    v.kind_ = Kind::kBool;
    v.integer_ = b ? 1 : 0;
    return v;
  }
  static Value Int(Integer i) {
    Value v;
    v.kind_ = Kind::kInteger;
    v.integer_ = i;
    return v;
  }
  static Value Float(double d) {
    Value v;
    v.kind_ = Kind::kFloat;
    v.real_ = d;
    return v;
  }
  static Value Of(Kind kind, std::shared_ptr<Object> object) {
    Value v;
    v.kind_ = kind;
    v.object_ = std::move(object);
    return v;
  }
  // Objects owned by someone who outlives the value (the Runtime, or static storage).
  static Value Borrowed(Kind kind, const void* pointer) {
    Value v;
    v.kind_ = kind;
    v.pointer_ = pointer;
    return v;
  }

  Kind kind() const { return kind_; }
  bool Is(Kind kind) const { return kind_ == kind; }
  bool is_undefined() const { return kind_ == Kind::kUndefined; }
  bool is_none() const { return kind_ == Kind::kNone; }
  bool is_string() const { return kind_ == Kind::kString; }
  // int or bool, which is an int in Python.
  bool is_integral() const { return kind_ == Kind::kInteger || kind_ == Kind::kBool; }
  bool is_number() const { return is_integral() || kind_ == Kind::kFloat; }

  bool boolean() const { return integer_ != 0; }
  Integer integer() const { return integer_; }  // also for bools
  double real() const { return kind_ == Kind::kFloat ? real_ : static_cast<double>(integer_); }

  template <typename T>
  T& As() const {
    return static_cast<T&>(*object_);
  }
  template <typename T>
  const T* Pointer() const {
    return static_cast<const T*>(pointer_);
  }
  std::string_view text() const;  // kString only
  bool markup() const;
  const std::shared_ptr<Object>& object() const { return object_; }
  const void* identity() const { return object_ ? object_.get() : pointer_; }
  uint32_t depth() const { return object_ ? object_->depth : 0; }

 private:
  Kind kind_;
  union {
    Integer integer_;
    double real_;
    const void* pointer_;
  };
  std::shared_ptr<Object> object_;
};

struct StringObject : Object {
  std::string text;   // UTF-8
  size_t length = 0;  // code points
  bool markup = false;
  bool ascii() const { return length == text.size(); }
};

struct UndefinedObject : Object {
  std::string hint;       // the whole message, or
  std::string name;       // what was looked up, in
  std::string owner;      // an object of this type ("" for a variable)
  bool security = false;  // an attribute the sandbox hides
};

struct ListObject : Object {  // also tuples
  std::vector<Value> items;
  bool group = false;  // groupby's pairs answer .grouper and .list
};

struct DictObject : Object {
  std::vector<std::pair<Value, Value>> entries;
  std::vector<uint32_t> by_text;  // indices of string keys, sorted by text; only when there are many entries
  const Value* Find(Runtime& runtime, const Value& key) const;
  const Value* Find(std::string_view key) const;
};

enum class DictViewKind : uint8_t { kItems, kKeys, kValues };
struct DictViewObject : Object {
  Value dict;
  DictViewKind view = DictViewKind::kItems;
};

struct RangeObject : Object {
  int64_t start = 0, stop = 0, step = 1;
  int64_t size = 0;
};

// Pulled once, like Python's generators. `next` returns false at the end.
struct GeneratorObject : Object {
  std::function<bool(Runtime&, Value*)> next;
  std::string name;
  bool done = false;
};

struct NamespaceObject {
  std::vector<std::pair<std::string, Value>> attributes;
  const Value* Find(std::string_view name) const;
};

struct MacroObject {
  const Statement* definition = nullptr;
  Scope* scope = nullptr;  // where it was defined: names resolve there
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// A function templates may call: range, dict, namespace, raise_exception, strftime_now.
struct Function {
  std::string_view name;
  Value (*call)(Runtime&, const Arguments&);
};

// A method of a built-in type. `forbidden`: the sandbox hides it (list.append and other mutations).
struct Method {
  std::string_view name;
  Value (*call)(Runtime&, const Value& self, const Arguments&);
  bool forbidden = false;
};

struct BoundMethodObject : Object {
  Value self;
  const Method* method = nullptr;
};

bool Truth(const Value& value);
std::string_view TypeName(const Value& value);  // Python's name: "str", "NoneType"

// Python's ==. Depth is bounded by kMaxDataDepth; steps are counted, since values may share parts so often
// that walking them takes exponential time.
bool Equal(Runtime& runtime, const Value& a, const Value& b);

}  // namespace tidepool::templates
