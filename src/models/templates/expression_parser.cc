#include "models/templates/expression_parser.h"

#include <fmt/format.h>

#include <algorithm>

#include "models/templates/unicode.h"

namespace tidepool::templates {

// ---- tokens

const Token& TokenCursor::Next() {
  const Token& token = tokens_[at_];
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

void TokenCursor::FailAt(Position position, std::string_view message) {
  throw ParseFailure{SyntaxError(position, message)};
}

bool TokenCursor::IsOperator(const Token& token, std::string_view op) {
  return token.kind == TokenKind::kOperator && token.text == op;
}

bool TokenCursor::IsName(const Token& token, std::string_view name) {
  return token.kind == TokenKind::kName && token.text == name;
}

bool TokenCursor::SkipOperator(std::string_view op) {
  if (!IsOperator(Current(), op)) return false;
  Next();
  return true;
}

bool TokenCursor::SkipName(std::string_view name) {
  if (!IsName(Current(), name)) return false;
  Next();
  return true;
}

std::string TokenCursor::Describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::kData: return "template data";
    case TokenKind::kVariableBegin: return "begin of print statement";
    case TokenKind::kVariableEnd: return "end of print statement";
    case TokenKind::kBlockBegin: return "begin of statement block";
    case TokenKind::kBlockEnd: return "end of statement block";
    case TokenKind::kString: return "string";
    case TokenKind::kEnd: return "end of template";
    default: return token.text;
  }
}

void TokenCursor::ExpectOperator(std::string_view op) {
  if (!SkipOperator(op)) Fail(fmt::format("expected token '{}', got '{}'", op, Describe(Current())));
}

void TokenCursor::ExpectName(std::string_view name) {
  if (!SkipName(name)) Fail(fmt::format("expected token '{}', got '{}'", name, Describe(Current())));
}

std::string TokenCursor::ExpectAnyName() {
  if (Current().kind != TokenKind::kName) {
    Fail(fmt::format("expected token 'name', got '{}'", Describe(Current())));
  }
  return Next().text;
}

void TokenCursor::ExpectKind(TokenKind kind, std::string_view what) {
  if (Current().kind != kind) Fail(fmt::format("expected token '{}', got '{}'", what, Describe(Current())));
  Next();
}

// ---- nodes

ExpressionPtr ExpressionParser::Make(ExpressionKind kind, Position position) {
  auto node = std::make_unique<Expression>();
  node->kind = kind;
  node->position = position;
  return node;
}

uint32_t ExpressionParser::DepthOf(const CallSyntax& call) {
  uint32_t depth = 0;
  const auto add = [&](const ExpressionPtr& e) {
    if (e) depth = std::max(depth, e->depth);
  };
  for (const auto& e : call.positional) add(e);
  for (const auto& [name, e] : call.named) add(e);
  add(call.spread);
  add(call.named_spread);
  return depth;
}

ExpressionPtr ExpressionParser::Finish(ExpressionPtr node) {
  uint32_t depth = node->call ? DepthOf(*node->call) : 0;
  const auto add = [&](const ExpressionPtr& e) {
    if (e) depth = std::max(depth, e->depth);
  };
  add(node->left);
  add(node->middle);
  add(node->right);
  for (const auto& e : node->items) add(e);
  node->depth = depth + 1;
  if (node->depth > kMaxTreeDepth) FailAt(node->position, "the expression is nested too deeply");
  return node;
}

std::unique_ptr<Statement> ExpressionParser::MakeStatement(StatementKind kind) {
  auto node = std::make_unique<Statement>();
  node->kind = kind;
  node->position = Current().position;
  return node;
}

Symbol ExpressionParser::SymbolOf(const std::string& name) {
  const auto [it, inserted] = symbols_.try_emplace(name, static_cast<Symbol>(tree_.names.size()));
  if (inserted) tree_.names.push_back(name);
  return it->second;
}

Value ExpressionParser::Text(std::string text) {
  auto object = std::make_shared<StringObject>();
  object->length = CountCodePoints(text);
  object->text = std::move(text);
  return Value::Of(Kind::kString, std::move(object));
}

// ---- expressions

bool ExpressionParser::IsReserved(std::string_view name) {
  return name == "true" || name == "false" || name == "none" || name == "True" || name == "False" ||
         name == "None";
}

ExpressionPtr ExpressionParser::Target(bool with_namespace, std::string_view end) {
  const Position position = Current().position;
  std::vector<ExpressionPtr> items;
  bool is_tuple = false;
  while (true) {
    if (!items.empty()) ExpectOperator(",");
    if (IsTupleEnd(end)) break;
    items.push_back(TargetItem(with_namespace));
    if (!IsOperator(Current(), ",")) break;
    is_tuple = true;
  }
  if (items.empty()) Fail(fmt::format("Expected an expression, got '{}'", Describe(Current())));
  if (!is_tuple) return std::move(items[0]);
  auto node = Make(ExpressionKind::kTuple, position);
  node->items = std::move(items);
  return Finish(std::move(node));
}

ExpressionPtr ExpressionParser::TargetItem(bool with_namespace) {
  const Nesting nesting(this);
  const Token& token = Current();
  if (SkipOperator("(")) {
    auto inner = Target(with_namespace, {});
    ExpectOperator(")");
    return inner;
  }
  if (token.kind != TokenKind::kName || IsReserved(token.text)) {
    Fail(fmt::format("can't assign to '{}'", Describe(token)));
  }
  Next();
  if (with_namespace && SkipOperator(".")) {
    auto node = Make(ExpressionKind::kNamespaceRef, token.position);
    node->symbol = SymbolOf(token.text);
    node->text = ExpectAnyName();
    return Finish(std::move(node));
  }
  if (token.text == "loop" && for_depth_ > 0) {
    FailAt(token.position, "Can't assign to special loop variable in for-loop target");
  }
  auto node = Make(ExpressionKind::kName, token.position);
  node->symbol = SymbolOf(token.text);
  return Finish(std::move(node));
}

bool ExpressionParser::IsTupleEnd(std::string_view end_name) const {
  const Token& token = Current();
  return token.kind == TokenKind::kVariableEnd || token.kind == TokenKind::kBlockEnd ||
         IsOperator(token, ")") || (!end_name.empty() && IsName(token, end_name));
}

ExpressionPtr ExpressionParser::Tuple(bool with_condition, std::string_view end, bool parenthesized) {
  const Position position = Current().position;
  std::vector<ExpressionPtr> items;
  bool is_tuple = false;
  while (true) {
    if (!items.empty()) ExpectOperator(",");
    if (IsTupleEnd(end)) break;
    items.push_back(with_condition ? Whole() : Or());
    if (!IsOperator(Current(), ",")) break;
    is_tuple = true;
  }
  if (!is_tuple) {
    if (!items.empty()) return std::move(items[0]);
    if (!parenthesized) Fail(fmt::format("Expected an expression, got '{}'", Describe(Current())));
  }
  auto node = Make(ExpressionKind::kTuple, position);
  node->items = std::move(items);
  return Finish(std::move(node));
}

ExpressionPtr ExpressionParser::Whole() {
  const Nesting nesting(this);
  auto value = Or();
  while (IsName(Current(), "if")) {
    auto node = Make(ExpressionKind::kCondition, Next().position);
    node->left = std::move(value);
    node->middle = Or();
    if (SkipName("else")) node->right = Whole();
    value = Finish(std::move(node));
  }
  return value;
}

ExpressionPtr ExpressionParser::Pair(ExpressionKind kind, Position position, ExpressionPtr left,
                                     ExpressionPtr right) {
  auto node = Make(kind, position);
  node->left = std::move(left);
  node->right = std::move(right);
  return Finish(std::move(node));
}

ExpressionPtr ExpressionParser::Or() {
  const Nesting nesting(this);
  auto left = And();
  while (IsName(Current(), "or")) {
    const Position position = Next().position;
    left = Pair(ExpressionKind::kOr, position, std::move(left), And());
  }
  return left;
}

ExpressionPtr ExpressionParser::And() {
  auto left = Not();
  while (IsName(Current(), "and")) {
    const Position position = Next().position;
    left = Pair(ExpressionKind::kAnd, position, std::move(left), Not());
  }
  return left;
}

ExpressionPtr ExpressionParser::Not() {
  const Nesting nesting(this);
  if (!IsName(Current(), "not")) return CompareChain();
  auto node = Make(ExpressionKind::kNot, Next().position);
  node->left = Not();
  return Finish(std::move(node));
}

bool ExpressionParser::ComparisonHere(Comparison* op) {
  const Token& token = Current();
  constexpr std::pair<std::string_view, Comparison> kOperators[] = {
      {"==", Comparison::kEqual},     {"!=", Comparison::kNotEqual}, {"<", Comparison::kLess},
      {"<=", Comparison::kLessEqual}, {">", Comparison::kGreater},   {">=", Comparison::kGreaterEqual}};
  for (const auto& [text, comparison] : kOperators) {
    if (!IsOperator(token, text)) continue;
    *op = comparison;
    Next();
    return true;
  }
  if (SkipName("in")) {
    *op = Comparison::kIn;
    return true;
  }
  if (IsName(token, "not") && IsName(Look(), "in")) {
    Next();
    Next();
    *op = Comparison::kNotIn;
    return true;
  }
  return false;
}

ExpressionPtr ExpressionParser::CompareChain() {
  const Position position = Current().position;
  auto left = Sum();
  Comparison op = Comparison::kEqual;
  if (!ComparisonHere(&op)) return left;
  auto node = Make(ExpressionKind::kCompare, position);
  node->left = std::move(left);
  do {
    node->comparisons.push_back(op);
    node->items.push_back(Sum());
  } while (ComparisonHere(&op));
  return Finish(std::move(node));
}

ExpressionPtr ExpressionParser::Operation(BinaryOperator operation, Position position, ExpressionPtr left,
                                          ExpressionPtr right) {
  auto node = Make(ExpressionKind::kBinary, position);
  node->operation = operation;
  node->left = std::move(left);
  node->right = std::move(right);
  return Finish(std::move(node));
}

ExpressionPtr ExpressionParser::Sum() {
  auto left = Concat();
  while (IsOperator(Current(), "+") || IsOperator(Current(), "-")) {
    const Token& token = Next();
    const auto op = token.text == "+" ? BinaryOperator::kAdd : BinaryOperator::kSubtract;
    left = Operation(op, token.position, std::move(left), Concat());
  }
  return left;
}

ExpressionPtr ExpressionParser::Concat() {
  const Position position = Current().position;
  auto first = Product();
  if (!IsOperator(Current(), "~")) return first;
  auto node = Make(ExpressionKind::kConcat, position);
  node->items.push_back(std::move(first));
  while (SkipOperator("~")) node->items.push_back(Product());
  return Finish(std::move(node));
}

ExpressionPtr ExpressionParser::Product() {
  auto left = Power();
  while (true) {
    const Token& token = Current();
    BinaryOperator op = BinaryOperator::kMultiply;
    if (IsOperator(token, "*"))
      op = BinaryOperator::kMultiply;
    else if (IsOperator(token, "/"))
      op = BinaryOperator::kDivide;
    else if (IsOperator(token, "//"))
      op = BinaryOperator::kFloorDivide;
    else if (IsOperator(token, "%"))
      op = BinaryOperator::kModulo;
    else
      return left;
    Next();
    left = Operation(op, token.position, std::move(left), Power());
  }
}

ExpressionPtr ExpressionParser::Power() {
  auto left = Unary(true);
  while (IsOperator(Current(), "**")) {
    const Position position = Next().position;
    left = Operation(BinaryOperator::kPower, position, std::move(left), Unary(true));
  }
  return left;
}

ExpressionPtr ExpressionParser::Unary(bool with_filter) {
  const Nesting nesting(this);
  ExpressionPtr node;
  if (IsOperator(Current(), "-") || IsOperator(Current(), "+")) {
    const bool minus = Current().text == "-";
    node = Make(minus ? ExpressionKind::kNegate : ExpressionKind::kPositive, Next().position);
    node->left = Unary(false);
    node = Finish(std::move(node));
  } else {
    node = Primary();
  }
  node = Postfix(std::move(node));
  return with_filter ? FilterExpression(std::move(node)) : std::move(node);
}

ExpressionPtr ExpressionParser::Constant(Position position, Value value) {
  auto node = Make(ExpressionKind::kConstant, position);
  node->constant = std::move(value);
  return Finish(std::move(node));
}

ExpressionPtr ExpressionParser::Primary() {
  const Token& token = Current();
  const Position position = token.position;
  switch (token.kind) {
    case TokenKind::kName: Next(); return NameOrConstant(token);
    case TokenKind::kString: {
      std::string text;
      while (Current().kind == TokenKind::kString) text += Next().text;
      return Constant(position, Text(std::move(text)));
    }
    case TokenKind::kInteger: Next(); return Constant(position, Value::Int(token.integer));
    case TokenKind::kFloat: Next(); return Constant(position, Value::Float(token.real));
    default: break;
  }
  if (SkipOperator("(")) {
    auto node = Tuple(true, {}, true);
    ExpectOperator(")");
    return node;
  }
  if (SkipOperator("[")) return ListLiteral(position);
  if (SkipOperator("{")) return DictLiteral(position);
  Fail(fmt::format("unexpected '{}'", Describe(token)));
}

ExpressionPtr ExpressionParser::NameOrConstant(const Token& token) {
  const std::string& name = token.text;
  if (name == "true" || name == "True") return Constant(token.position, Value::Bool(true));
  if (name == "false" || name == "False") return Constant(token.position, Value::Bool(false));
  if (name == "none" || name == "None") return Constant(token.position, Value());
  auto node = Make(ExpressionKind::kName, token.position);
  node->symbol = SymbolOf(name);
  for (Statement* macro : macros_) {
    macro->uses_caller = macro->uses_caller || node->symbol == tree_.caller;
    macro->uses_varargs = macro->uses_varargs || node->symbol == tree_.varargs;
    macro->uses_kwargs = macro->uses_kwargs || node->symbol == tree_.kwargs;
  }
  return Finish(std::move(node));
}

ExpressionPtr ExpressionParser::ListLiteral(Position position) {
  auto node = Make(ExpressionKind::kList, position);
  while (!IsOperator(Current(), "]")) {
    if (!node->items.empty()) ExpectOperator(",");
    if (IsOperator(Current(), "]")) break;
    node->items.push_back(Whole());
  }
  ExpectOperator("]");
  return Finish(std::move(node));
}

ExpressionPtr ExpressionParser::DictLiteral(Position position) {
  auto node = Make(ExpressionKind::kDict, position);
  while (!IsOperator(Current(), "}")) {
    if (!node->items.empty()) ExpectOperator(",");
    if (IsOperator(Current(), "}")) break;
    node->items.push_back(Whole());
    ExpectOperator(":");
    node->items.push_back(Whole());
  }
  ExpectOperator("}");
  return Finish(std::move(node));
}

ExpressionPtr ExpressionParser::Postfix(ExpressionPtr node) {
  while (true) {
    if (IsOperator(Current(), ".") || IsOperator(Current(), "["))
      node = Subscript(std::move(node));
    else if (IsOperator(Current(), "("))
      node = CallOf(std::move(node));
    else
      return node;
  }
}

ExpressionPtr ExpressionParser::FilterExpression(ExpressionPtr node) {
  while (true) {
    if (IsOperator(Current(), "|"))
      node = FilterChain(std::move(node), false);
    else if (IsName(Current(), "is"))
      node = TestOf(std::move(node));
    else if (IsOperator(Current(), "("))
      node = CallOf(std::move(node));
    else
      return node;
  }
}

ExpressionPtr ExpressionParser::Subscript(ExpressionPtr value) {
  const Position position = Current().position;
  if (SkipOperator(".")) {
    const Token& token = Next();
    if (token.kind == TokenKind::kName) {
      auto node = Make(ExpressionKind::kAttribute, position);
      node->left = std::move(value);
      node->text = token.text;
      return Finish(std::move(node));
    }
    if (token.kind != TokenKind::kInteger) FailAt(token.position, "expected name or number");
    return Pair(ExpressionKind::kItem, position, std::move(value),
                Constant(token.position, Value::Int(token.integer)));
  }
  ExpectOperator("[");
  std::vector<ExpressionPtr> keys;
  bool is_slice = false;
  while (!IsOperator(Current(), "]")) {
    if (!keys.empty()) ExpectOperator(",");
    keys.push_back(SubscriptKey(&is_slice));
  }
  ExpectOperator("]");
  if (keys.size() == 1 && is_slice) {
    keys[0]->left = std::move(value);
    keys[0]->position = position;
    return Finish(std::move(keys[0]));
  }
  if (is_slice) FailAt(position, "a slice inside a tuple is not supported");
  if (keys.size() == 1) return Pair(ExpressionKind::kItem, position, std::move(value), std::move(keys[0]));
  auto tuple = Make(ExpressionKind::kTuple, position);
  tuple->items = std::move(keys);
  return Pair(ExpressionKind::kItem, position, std::move(value), Finish(std::move(tuple)));
}

ExpressionPtr ExpressionParser::SubscriptKey(bool* is_slice) {
  const Position position = Current().position;
  ExpressionPtr parts[3];
  if (!IsOperator(Current(), ":")) {
    parts[0] = Whole();
    if (!IsOperator(Current(), ":")) return std::move(parts[0]);
  }
  Next();
  const auto ends = [&] { return IsOperator(Current(), "]") || IsOperator(Current(), ","); };
  if (!IsOperator(Current(), ":") && !ends()) parts[1] = Whole();
  if (SkipOperator(":") && !ends()) parts[2] = Whole();
  auto node = Make(ExpressionKind::kSlice, position);
  for (auto& part : parts) node->items.push_back(std::move(part));
  *is_slice = true;
  return node;
}

std::unique_ptr<CallSyntax> ExpressionParser::CallArguments() {
  const Position position = Current().position;
  ExpectOperator("(");
  auto call = std::make_unique<CallSyntax>();
  const auto ensure = [&](bool valid) {
    if (!valid) FailAt(position, "invalid syntax for function call expression");
  };
  bool comma = false;
  while (!IsOperator(Current(), ")")) {
    if (comma) {
      ExpectOperator(",");
      if (IsOperator(Current(), ")")) break;
    }
    if (SkipOperator("*")) {
      ensure(!call->spread && !call->named_spread);
      call->spread = Whole();
    } else if (SkipOperator("**")) {
      ensure(!call->named_spread);
      call->named_spread = Whole();
    } else if (Current().kind == TokenKind::kName && IsOperator(Look(), "=")) {
      ensure(!call->named_spread);
      std::string name = Next().text;
      Next();
      for (const auto& [other, value] : call->named) {
        if (other == name) FailAt(position, fmt::format("keyword argument repeated: {}", name));
      }
      call->named.emplace_back(std::move(name), Whole());
    } else {
      ensure(!call->spread && !call->named_spread && call->named.empty());
      call->positional.push_back(Whole());
    }
    comma = true;
  }
  ExpectOperator(")");
  return call;
}

ExpressionPtr ExpressionParser::CallOf(ExpressionPtr callee) {
  auto node = Make(ExpressionKind::kCall, Current().position);
  node->left = std::move(callee);
  node->call = CallArguments();
  return Finish(std::move(node));
}

std::string ExpressionParser::DottedName() {
  std::string name = ExpectAnyName();
  while (SkipOperator(".")) name += "." + ExpectAnyName();
  return name;
}

ExpressionPtr ExpressionParser::FilterChain(ExpressionPtr value, bool inline_first) {
  while (IsOperator(Current(), "|") || inline_first) {
    if (!inline_first) Next();
    inline_first = false;
    auto node = Make(ExpressionKind::kFilter, Current().position);
    node->text = DottedName();
    node->filter = FindFilter(node->text);
    node->left = std::move(value);
    node->call = IsOperator(Current(), "(") ? CallArguments() : std::make_unique<CallSyntax>();
    value = Finish(std::move(node));
  }
  return value;
}

ExpressionPtr ExpressionParser::TestOf(ExpressionPtr value) {
  auto node = Make(ExpressionKind::kTest, Next().position);
  const Position position = node->position;
  const bool negated = SkipName("not");
  node->text = DottedName();
  node->test = FindTest(node->text);
  node->left = std::move(value);
  const Token& token = Current();
  node->call = std::make_unique<CallSyntax>();
  const bool operand = token.kind == TokenKind::kName || token.kind == TokenKind::kString ||
                       token.kind == TokenKind::kInteger || token.kind == TokenKind::kFloat ||
                       IsOperator(token, "[") || IsOperator(token, "{");
  if (IsOperator(token, "(")) {
    node->call = CallArguments();
  } else if (operand && !IsName(token, "else") && !IsName(token, "or") && !IsName(token, "and")) {
    if (IsName(token, "is")) Fail("You cannot chain multiple tests with is");
    node->call->positional.push_back(Postfix(Primary()));
  }
  node = Finish(std::move(node));
  if (!negated) return node;
  auto inverse = Make(ExpressionKind::kNot, position);
  inverse->left = std::move(node);
  return Finish(std::move(inverse));
}

}  // namespace tidepool::templates
