// Oracle: RFC 4180 by hand; tests/ledger_e2e.py reads whole files with Python's csv.
#include "base/csv.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace tidepool {
namespace {

const std::vector<std::string> kOne = {"a"};

std::string Cell(std::string_view text) {
  CsvWriter csv(kOne);
  csv.Text(text).EndRow();
  const std::string whole = csv.Take();
  EXPECT_TRUE(whole.starts_with("a\r\n") && whole.ends_with("\r\n")) << whole;
  return whole.substr(3, whole.size() - 5);
}

TEST(CsvTest, QuotesWhereACommaAQuoteOrALinesEndStands) {
  EXPECT_EQ(Cell("plain text"), "plain text");
  EXPECT_EQ(Cell(""), "");
  EXPECT_EQ(Cell("a,b"), "\"a,b\"");
  EXPECT_EQ(Cell("say \"so\""), "\"say \"\"so\"\"\"");
  EXPECT_EQ(Cell("two\r\nlines"), "\"two\r\nlines\"");
  EXPECT_EQ(Cell("\""), "\"\"\"\"");
  EXPECT_EQ(Cell("数, 据"), "\"数, 据\"");
}

TEST(CsvTest, WhatASpreadsheetWouldTakeForAFormulaIsText) {
  EXPECT_EQ(Cell("=1+1"), "'=1+1");
  EXPECT_EQ(Cell("=HYPERLINK(\"x\")"), "\"'=HYPERLINK(\"\"x\"\")\"");
  EXPECT_EQ(Cell("+1"), "'+1");
  EXPECT_EQ(Cell("-1+cmd"), "'-1+cmd");
  EXPECT_EQ(Cell("@SUM(1,2)"), "\"'@SUM(1,2)\"");
  EXPECT_EQ(Cell("\t=1"), "'\t=1");
  EXPECT_EQ(Cell("\r=1"), "\"'\r=1\"");
  EXPECT_EQ(Cell("\n=1"), "\"'\n=1\"");
  EXPECT_EQ(Cell("-"), "'-");
  EXPECT_EQ(Cell("-1.2.3"), "'-1.2.3");
  EXPECT_EQ(Cell("-1."), "'-1.");
  // Numbers stay numbers, and text with such a sign within it is none.
  EXPECT_EQ(Cell("-0.01"), "-0.01");
  EXPECT_EQ(Cell("-5"), "-5");
  EXPECT_EQ(Cell("a=1"), "a=1");
}

TEST(CsvTest, RowsHaveACellForEachColumn) {
  const std::vector<std::string> columns = {"name", "=count", "amount", "note"};
  CsvWriter csv(columns);
  csv.Text("x").Integer(-3).Number("-0.000001").Skip().EndRow();
  csv.Skip(3).Text("y").EndRow();
  const size_t bytes = csv.bytes();
  EXPECT_EQ(csv.Take().size(), bytes);
  CsvWriter again(columns);
  again.Text("x").Integer(-3).Number("-0.000001").Skip().EndRow();
  EXPECT_EQ(again.Take(), "name,'=count,amount,note\r\nx,-3,-0.000001,\r\n");
  EXPECT_DEATH(CsvWriter(columns).Text("x").EndRow(), "");
  EXPECT_DEATH(CsvWriter(kOne).Skip(2), "");
}

}  // namespace
}  // namespace tidepool
