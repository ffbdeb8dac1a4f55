// jinja2's grammar (parser.py), by recursive descent: the tokens, and expressions. Statements are parser.cc.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "models/templates/lexer.h"
#include "models/templates/syntax.h"

namespace tidepool::templates {

// Inside the parser only: ParseTemplate turns it into a value.
struct ParseFailure {
  Error error;
};

// Where the parser stands in the tokens. Expect* take what they name or fail with its position.
class TokenCursor {
 protected:
  explicit TokenCursor(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& Current() const { return tokens_[at_]; }
  const Token& Look() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  const Token& Next();
  [[noreturn]] void Fail(std::string_view message) const { FailAt(Current().position, message); }
  [[noreturn]] static void FailAt(Position position, std::string_view message);
  static bool IsOperator(const Token& token, std::string_view op);
  static bool IsName(const Token& token, std::string_view name);
  bool SkipOperator(std::string_view op);
  bool SkipName(std::string_view name);
  static std::string Describe(const Token& token);
  void ExpectOperator(std::string_view op);
  void ExpectName(std::string_view name);
  std::string ExpectAnyName();
  void ExpectKind(TokenKind kind, std::string_view what);

 private:
  std::vector<Token> tokens_;
  size_t at_ = 0;
};

class ExpressionParser : protected TokenCursor {
 protected:
  ExpressionParser(std::vector<Token> tokens, SyntaxTree* tree)
      : TokenCursor(std::move(tokens)), tree_(*tree) {}

  // Guards the recursion of the parser itself.
  class Nesting {
   public:
    explicit Nesting(ExpressionParser* parser) : parser_(*parser) {
      if (++parser_.nesting_ > kMaxTreeDepth) {
        --parser_.nesting_;
        parser_.Fail("the template is nested too deeply");
      }
    }
    ~Nesting() { --parser_.nesting_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    ExpressionParser& parser_;
  };
  static ExpressionPtr Make(ExpressionKind kind, Position position);
  static uint32_t DepthOf(const CallSyntax& call);
  // Every finished node passes here: chains such as a+b+c grow deep without recursion in the parser.
  ExpressionPtr Finish(ExpressionPtr node);
  std::unique_ptr<Statement> MakeStatement(StatementKind kind);
  Symbol SymbolOf(const std::string& name);
  Value Text(std::string text);

  static bool IsReserved(std::string_view name);
  ExpressionPtr Target(bool with_namespace, std::string_view end);
  ExpressionPtr TargetItem(bool with_namespace);
  bool IsTupleEnd(std::string_view end_name) const;
  ExpressionPtr Tuple(bool with_condition, std::string_view end = {}, bool parenthesized = false);
  ExpressionPtr Whole();
  ExpressionPtr Pair(ExpressionKind kind, Position position, ExpressionPtr left, ExpressionPtr right);
  ExpressionPtr Or();
  ExpressionPtr And();
  ExpressionPtr Not();
  bool ComparisonHere(Comparison* op);
  ExpressionPtr CompareChain();
  ExpressionPtr Operation(BinaryOperator operation, Position position, ExpressionPtr left,
                          ExpressionPtr right);
  ExpressionPtr Sum();
  ExpressionPtr Concat();
  ExpressionPtr Product();
  ExpressionPtr Power();
  ExpressionPtr Unary(bool with_filter);
  ExpressionPtr Constant(Position position, Value value);
  ExpressionPtr Primary();
  ExpressionPtr NameOrConstant(const Token& token);
  ExpressionPtr ListLiteral(Position position);
  ExpressionPtr DictLiteral(Position position);
  ExpressionPtr Postfix(ExpressionPtr node);
  ExpressionPtr FilterExpression(ExpressionPtr node);
  ExpressionPtr Subscript(ExpressionPtr value);
  ExpressionPtr SubscriptKey(bool* is_slice);
  std::unique_ptr<CallSyntax> CallArguments();
  ExpressionPtr CallOf(ExpressionPtr callee);
  std::string DottedName();
  ExpressionPtr FilterChain(ExpressionPtr value, bool inline_first);
  ExpressionPtr TestOf(ExpressionPtr value);

  SyntaxTree& tree_;
  std::vector<Statement*> macros_;  // the definitions being parsed, outermost first
  int for_depth_ = 0;

 private:
  std::unordered_map<std::string, Symbol> symbols_;
  uint32_t nesting_ = 0;
};

}  // namespace tidepool::templates
